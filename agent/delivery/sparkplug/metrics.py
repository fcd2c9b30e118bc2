"""A result as Sparkplug metrics, named as in the result: ``evaluation``, ``image/name``, ``probability/defect``, …

Invariants
- Every field of a result is a metric; a list has no metric of its own kind and is JSON text (``reasons``, ``labels``).
- Each datum of one result carries the result's ``created_at`` as its time: the station's clock, in the order of
  ``sequence``, where ``captured_at`` may be a camera's.
- What was measured goes with every result, unchanged or not: a lost message must not leave a former verdict standing.
  What only describes the station goes when it changes. ``sequence`` comes last: who waits for it finds the rest there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import repeat
from typing import Any

import msgspec

from agent.delivery.sparkplug.payload import Type, Value, metric

_TEXT, _NUMBER, _TIME = Type.STRING, Type.DOUBLE, Type.DATE_TIME

#: Describes the station and its model.
DESCRIBES = {
    "schema": _TEXT,
    "ledger_id": _TEXT,
    "labels": _TEXT,
    **{f"station/{name}": _TEXT for name in ("enterprise", "site", "area", "line", "name")},
    **{f"model/{name}": _TEXT for name in ("name", "version", "variant", "sha256")},
    "simulated": Type.BOOLEAN,
}
#: Measured anew for each image; the probabilities, whose names depend on the model's labels, come before these.
MEASURED = {
    "evaluation": _TEXT,
    "class": _TEXT,
    "reasons": _TEXT,
    "part_id": _TEXT,
    "job_id": _TEXT,
    "weld_id": _TEXT,
    "frame": _TEXT,
    "image/name": _TEXT,
    "image/sha256": _TEXT,
    "image/bytes": Type.INT64,
    "image/width": Type.INT32,
    "image/height": Type.INT32,
    "image/source": _TEXT,
    "captured_at": _TIME,
    "captured_from": _TEXT,
    "created_at": _TIME,
    **{f"timing_ms/{name}": _NUMBER for name in ("decode", "preprocess", "inference", "total")},
    "result_id": _TEXT,
    "sequence": Type.INT64,
}
_FIELDS = DESCRIBES | MEASURED


@dataclass(frozen=True)
class Datum:
    """The values of one result by the name of their metric, and the time that they share."""

    values: Mapping[str, Value]
    labels: tuple[str, ...]
    timestamp_ms: int


def datum(body: bytes) -> Datum:
    """What the JSON of a result says. ``ValueError`` when it is no result."""
    try:
        result = msgspec.json.decode(body)
        labels = tuple(map(str, result["labels"]))
        values = {name: _of(result, name, kind) for name, kind in _FIELDS.items()}
        values |= {
            _probability(label): p for label, p in zip(labels, result["probability"] or repeat(None), strict=False)
        }
        return Datum(values, labels, _milliseconds(result["created_at"]))
    except (KeyError, TypeError, AttributeError, msgspec.DecodeError) as error:
        raise ValueError(f"no result: {error!r}") from None


def births(labels: Iterable[str], newest: Datum | None, now_ms: int) -> Iterator[bytes]:
    """Every metric of the device with its type and its present value; null where there is no result yet."""
    at = newest.timestamp_ms if newest else now_ms
    for name, kind in _all(labels):
        yield metric(name, kind, newest.values.get(name) if newest else None, at, declare=True)


def live(one: Datum, known: Mapping[str, Value]) -> Iterator[bytes]:
    """What was measured, and of the rest what is no longer as the host knows it."""
    for name, kind in _all(one.labels):
        if name not in DESCRIBES or one.values[name] != known.get(name):
            yield metric(name, kind, one.values[name], one.timestamp_ms)


def historical(one: Datum) -> Iterator[bytes]:
    """The whole result, flagged as not the present one: nothing to be completed from what a host knows by now."""
    for name, kind in _all(one.labels):
        yield metric(name, kind, one.values[name], one.timestamp_ms, historical=True)


def _all(labels: Iterable[str]) -> Iterator[tuple[str, Type]]:
    yield from DESCRIBES.items()
    yield from ((_probability(label), _NUMBER) for label in labels)
    yield from MEASURED.items()


def _probability(label: str) -> str:
    return f"probability/{label}"


def _of(result: dict[str, Any], name: str, kind: Type) -> Value:
    """The field called ``name``; null also where an older weldwatch did not write it yet."""
    found: Any = result
    for step in name.split("/"):
        found = found.get(step) if found is not None else None
    if found is None:
        return None
    if kind is _TIME:
        return _milliseconds(found)
    if isinstance(found, (list, dict)):
        return msgspec.json.encode(found).decode()
    return found  # type: ignore[no-any-return]  # JSON has no other scalars than Value


def _milliseconds(text: str) -> int:
    return round(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1000)
