"""Payloads against an independent decoder (protobuf's own, by Eclipse Tahu's definition), and what comes in hostile."""

from __future__ import annotations

import json
import math
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sparkplub_b_packets.core.sparkplug_b_pb2 import DataType, Payload

from agent.delivery.sparkplug import metrics
from agent.delivery.sparkplug.payload import Type, metric, payload, switched_on
from agent.result import Result
from tests.support.results import a_result, stored
from tests.support.sparkplug import rebuilt, value_of

_NAMES = {
    Type.INT32: "Int32", Type.INT64: "Int64", Type.DOUBLE: "Double", Type.BOOLEAN: "Boolean", Type.STRING: "String",
    Type.DATE_TIME: "DateTime",
}  # fmt: skip
_OF = {
    Type.INT32: st.integers(-(2**31), 2**31 - 1),
    Type.INT64: st.integers(-(2**63), 2**63 - 1),
    Type.DOUBLE: st.floats(),
    Type.BOOLEAN: st.booleans(),
    Type.STRING: st.text(),
    Type.DATE_TIME: st.integers(0, 2**63 - 1),
}
_METRIC = st.sampled_from(list(Type)).flatmap(lambda kind: st.tuples(st.text(), st.just(kind), st.none() | _OF[kind]))


def test_types_carry_the_numbers_of_the_specification() -> None:
    assert {kind: DataType.Value(name) for kind, name in _NAMES.items()} == {kind: int(kind) for kind in Type}


@given(
    st.lists(_METRIC, max_size=5), st.integers(0, 2**63), st.none() | st.integers(0, 255), st.booleans(), st.booleans()
)
def test_what_is_written_is_what_another_decoder_reads(
    wanted: list[tuple[str, Type, Any]], at: int, seq: int | None, declare: bool, late: bool
) -> None:
    content = [metric(name, kind, value, at, declare=declare, historical=late) for name, kind, value in wanted]
    read = Payload.FromString(payload(content, at, seq))
    assert (read.timestamp, read.seq if read.HasField("seq") else None) == (at, seq)
    assert len(read.metrics) == len(wanted)
    for one, (name, kind, value) in zip(read.metrics, wanted, strict=True):
        assert one.name == name.encode("utf-8", "replace").decode()
        assert (one.timestamp, one.is_historical) == (at, late)
        assert one.HasField("datatype") is declare
        assert not declare or one.datatype == kind
        found = value_of(one, kind)
        if isinstance(value, float) and math.isnan(value):
            assert math.isnan(found)
        else:
            assert found == (value.encode("utf-8", "replace").decode() if isinstance(value, str) else value)
            assert type(found) is type(value)


def _fields(kind: type[msgspec.Struct], folder: str = "") -> set[str]:
    found = set()
    for field in msgspec.structs.fields(kind):
        hint = get_type_hints(kind)[field.name]
        inner = [
            part for part in (hint, *get_args(hint)) if isinstance(part, type) and issubclass(part, msgspec.Struct)
        ]
        if inner and get_origin(hint) is not list:
            found |= _fields(inner[0], f"{folder}{field.encode_name}/")
        else:
            found.add(f"{folder}{field.encode_name}")
    return found


def test_every_field_of_a_result_is_a_metric() -> None:
    assert _fields(Result) - {"probability"} == set(metrics.DESCRIBES) | set(metrics.MEASURED)
    assert list(metrics.MEASURED)[-1] == "sequence"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"class_": None, "probability": None, "evaluation": "NotDecidable", "labels": ["a/b", "c"], "part_id": "ä\n漢"},
        {"station": None, "labels": [], "probability": []},
    ],
)
def test_a_result_survives_the_way_through_metrics(changes: dict[str, Any]) -> None:
    body = msgspec.json.encode(a_result(sequence=7, ledger_id="L", **changes))
    read = Payload.FromString(payload(metrics.historical(metrics.datum(body)), 1, 0))
    types = {**metrics.DESCRIBES, **metrics.MEASURED}
    values = {one.name: value_of(one, types.get(one.name, Type.DOUBLE)) for one in read.metrics}
    found, wanted = rebuilt(values), json.loads(body)
    if wanted["station"] is None:
        assert set(found.pop("station").values()) == {None}
        wanted.pop("station")
    assert found == wanted


def test_a_result_of_an_older_version_lacks_a_field_and_has_null_there() -> None:
    old = json.loads(stored(1).body)
    del old["simulated"], old["timing_ms"]
    values = metrics.datum(json.dumps(old).encode()).values
    assert (values["simulated"], values["timing_ms/total"], values["sequence"]) == (None, None, 1)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"{}", b'{"labels": 3}', b"\xff", b'{"labels":[],"probability":7}']
)
def test_what_is_no_result_is_said_so(body: bytes) -> None:
    with pytest.raises(ValueError, match="no result"):
        metrics.datum(body)


# --- what comes in ---


def test_a_command_is_read() -> None:
    command = Payload(timestamp=1, seq=5, uuid="x", body=b"y")
    command.metrics.add(name="Node Control/Rebirth", datatype=11, boolean_value=True, timestamp=3)
    command.metrics.add(name="Node Control/Reboot", boolean_value=False)
    command.metrics.add(name="Node Control/Scan Rate", long_value=1, double_value=2.0)
    command.metrics.add(name="Float", float_value=1.0)
    command.metrics.add(alias=3, boolean_value=True)
    assert switched_on(command.SerializeToString()) == {"Node Control/Rebirth"}
    assert switched_on(b"") == set()


@given(st.binary(max_size=200))
def test_garbage_is_read_or_refused(told: bytes) -> None:
    try:
        assert isinstance(switched_on(told), set)
    except ValueError:
        pass


@pytest.mark.parametrize("told", [b"\xff" * 20, b"\x12\xff\xff\xff\xff\x7f", b"\x12\x05\x0a", b"\x0b", b"\x09\x01"])
def test_what_is_cut_off_or_senseless_is_refused(told: bytes) -> None:
    with pytest.raises(ValueError, match=r"cut off|no such kind|without an end"):
        switched_on(told)
