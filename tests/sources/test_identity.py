"""Ids and times from names and sidecars: what is clear is taken, what is not is unknown, nothing stops a frame."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.frame import Identity
from agent.sources.identity import MAX_SIDECAR, Names, SidecarError, Told

PATTERN = r"(?P<part_id>[^_]+)_(?P<job_id>[^_]+)_(?P<frame>\d+)"
BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 22, tzinfo=timezone.utc)


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=timezone.utc)


def test_the_pattern_matches_the_whole_stem():
    names = Names(PATTERN, timezone.utc)
    assert names.read(b"A17_J9_0042.png").identity == Identity("A17", "J9", None, "0042")
    for odd in (b"A17_J9_0042_b.png", b"x_A17_J9.png", b"A17_J9_0042", b".png"):
        named = names.read(odd)
        assert named.unknown == (odd != b"A17_J9_0042"), odd
        assert named.identity == Identity() or not named.unknown


def test_without_a_pattern_nothing_is_unknown():
    assert not Names(None, timezone.utc).read(b"whatever.png").unknown


def test_an_optional_group_that_took_no_part_is_null():
    assert Names(r"(?P<part_id>\w+?)(?:-(?P<weld_id>\d+))?", BERLIN).read(b"A.png").identity == Identity("A")


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("20261122T102205123Z", utc(2026, 11, 22, 10, 22, 5, 123000)),
        ("cam_20261122T102205Z", utc(2026, 11, 22, 10, 22, 5)),
        ("20261122-102205", utc(2026, 11, 22, 9, 22, 5)),
        ("20260722_102205_bead", utc(2026, 7, 22, 8, 22, 5)),
        ("2026-11-22_10-22-05", utc(2026, 11, 22, 9, 22, 5)),
        ("2026-11-22T10:22:05.123456Z", utc(2026, 11, 22, 10, 22, 5, 123456)),
        ("2026-11-22T10:22:05+05:30", utc(2026, 11, 22, 4, 52, 5)),
        ("20261122-102205_20261122-102205", utc(2026, 11, 22, 9, 22, 5)),
    ],
)
def test_a_stamp_in_the_name(stem, expected):
    assert Names(None, BERLIN).read(stem.encode() + b".png").taken_at == expected


@pytest.mark.parametrize(
    "stem",
    [
        "20261322-102205", "20260230T000000", "20261122T250000", "120261122-102205", "20261122-1022051",
        "part20261122-102205",
        "20261122", "102205", "20261122-102205_20261122-102206", "19991122-102205", "A17_J9_0042",
        "20261122T102205+99:99",
    ],
)  # fmt: skip
def test_no_stamp_in_the_name(stem):
    assert Names(None, BERLIN).read(stem.encode() + b".png").taken_at is None


@pytest.mark.parametrize(
    ("written", "expected"),
    [("1795342925", utc(2026, 11, 22, 10, 22, 5)), ("1795342925123", utc(2026, 11, 22, 10, 22, 5, 123000)),
     ("20261122-102205", utc(2026, 11, 22, 9, 22, 5)), ("tomorrow", None)],
)  # fmt: skip
def test_the_named_group_captured_at(written, expected):
    names = Names(r"(?P<part_id>[^_]+)_(?P<captured_at>.+)", BERLIN)
    named = names.read(f"A_{written}.png".encode())
    assert (named.identity.part_id, named.taken_at) == ("A", expected)


@given(st.binary(min_size=1, max_size=255))
def test_no_name_breaks_it(name):
    named = Names(PATTERN, BERLIN).read(name.replace(b"/", b"x").replace(b"\0", b"x"))
    json.dumps([named.identity.part_id, named.identity.frame])


@given(
    st.datetimes(datetime(2000, 1, 1), datetime(2099, 12, 31)), st.sampled_from(["%Y%m%dT%H%M%S", "%Y-%m-%d_%H-%M-%S"])
)
def test_every_written_time_is_read_back(moment, form):
    moment = moment.replace(microsecond=0)
    assert Names(None, timezone.utc).read(f"a_{moment.strftime(form)}.png".encode()).taken_at == moment.replace(
        tzinfo=timezone.utc
    )


def test_the_order_of_what_says_when_it_was_taken():
    names = Names(None, BERLIN)
    named = names.read(b"20261122-102205.png")
    sidecar = names.sidecar(b'{"captured_at": "2026-11-22T08:00:00Z"}')
    exif = datetime(2026, 11, 22, 10, 0, 0)
    mtime = 1_795_342_925_123_456_789
    assert names.captured_at(exif, Told(named, sidecar), mtime, NOW) == (utc(2026, 11, 22, 8), "sidecar")
    assert names.captured_at(exif, Told(named), mtime, NOW) == (utc(2026, 11, 22, 9), "exif")
    assert names.captured_at(None, Told(named), mtime, NOW) == (utc(2026, 11, 22, 9, 22, 5), "name")
    bare = Told(names.read(b"a.png"))
    assert names.captured_at(datetime(1980, 1, 1), bare, mtime, NOW)[1] == "mtime"
    assert names.captured_at(None, bare, mtime, NOW) == (utc(2026, 11, 22, 10, 22, 5, 123456), "mtime")
    assert names.captured_at(None, bare, 2**63 * 1000, NOW) == (NOW, "mtime")


@pytest.mark.parametrize("zone", [timezone(-timedelta(hours=12)), None])
def test_an_exif_time_at_the_edge_of_the_calendar_is_unknown(zone):
    edge = datetime(9999, 12, 31, 23, 59, 59, tzinfo=zone)
    names = Names(None, ZoneInfo("America/New_York"))
    assert names.captured_at(edge, Told(names.read(b"20261122-102205.png")), 0, NOW)[1] == "name"
    assert names.captured_at(edge, Told(names.read(b"a.png")), 0, NOW) == (utc(1970, 1, 1), "mtime")


def test_the_sidecar_goes_before_the_name_and_both_before_the_job():
    names = Names(PATTERN, BERLIN)
    sidecar = names.sidecar(b'{"weld_id": 7, "part_id": "B", "more": [1]}')
    name, odd, job = names.read(b"A_J_1.png"), names.read(b"odd.png"), Identity("C", "K", "9")
    assert Told(name, sidecar).identity() == (Identity("B", "J", "7", "1"), False)
    assert Told(name, job=job).identity() == (Identity("A", "J", "9", "1"), False)
    assert Told(name, sidecar, job).identity() == (Identity("B", "J", "7", "1"), False)
    assert Told(odd, sidecar).identity() == (Identity("B", None, "7", None), False)
    assert Told(odd, sidecar, job).identity() == (Identity("B", "K", "7", None), False)


def test_what_nothing_told_is_unknown_and_a_job_tells_something():
    names = Names(PATTERN, BERLIN)
    odd = names.read(b"odd.png")
    assert Told(odd, names.sidecar(b"{}")).identity() == (Identity(), True)
    assert Told(odd, job=Identity(job_id="K")).identity() == (Identity(job_id="K"), False)
    assert Told(Names(None, BERLIN).read(b"odd.png")).identity() == (Identity(), False)


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{", b"\xff", b"[" * MAX_SIDECAR, b'{"part_id": ""}', b'{"part_id": true}',
     b'{"part_id": {"a": 1}}', b'{"frame": 1.5}',
     b'{"part_id": "' + b"x" * 201 + b'"}', b'{"captured_at": "yesterday"}', b'{"captured_at": 5}',
     b'{"part_id": "\xff"}'],
)  # fmt: skip
def test_a_bad_sidecar_says_why(data):
    with pytest.raises(SidecarError) as caught:
        Names(None, BERLIN).sidecar(data)
    assert str(caught.value)
    assert "\n" not in str(caught.value)
