"""A span of time again: everything of it at least once, the same bytes, and the first lane as if nothing were."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.clock import ManualClock, SystemClock, iso_utc, parse_iso
from agent.delivery.lane import Lane
from agent.delivery.replays import Progress, Replays
from agent.delivery.shipper import Shipper
from agent.errors import UsageError
from agent.health import Health
from agent.ledger import Ledger
from tests.support.fakes import FakeSink
from tests.support.mosquitto import Listener, Mosquitto
from tests.support.mqtt_station import TOPIC, Start, Watched
from tests.support.results import an_entry

NOON = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
LATER = NOON + timedelta(days=1)


def at(minute: float) -> datetime:
    return NOON + timedelta(minutes=minute)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("_LOOK_S", 0.02), ("_EVERY_S", 0.001), ("_AGAIN_S", 0.05)):
        monkeypatch.setattr(f"agent.delivery.lane.{name}", seconds)


@pytest.fixture
def replays(tmp_path: Path, ledger: Ledger) -> Replays:
    return Replays(tmp_path / "state")


@pytest.fixture
def sink() -> FakeSink:
    return FakeSink()


@pytest.fixture
def delivered(ledger: Ledger, sink: FakeSink) -> None:
    """Two hundred results, one a minute from noon on, all of them delivered."""
    ledger.register(["fake"])
    ledger.commit([an_entry(n, created_at=iso_utc(at(n))) for n in range(200)])
    ledger.advance("fake", 200)


@pytest.fixture
def start(ledger: Ledger, replays: Replays, sink: FakeSink) -> Iterator[Callable[[], Shipper]]:
    shippers: list[Shipper] = []

    def start(health: Health | None = None) -> Shipper:
        shippers.append(Shipper(sink, ledger, health or Health(), SystemClock(), replays))
        shippers[-1].start()
        return shippers[-1]

    yield start
    for one in shippers:
        one.stop(2)


def wait_done(replays: Replays, sink: FakeSink) -> None:
    sink.until(lambda: True)
    waited = threading.Event()
    for _ in range(2000):
        if not replays.names():
            return
        waited.wait(0.01)  # the wish goes with its file
    raise AssertionError(replays.names())


def test_a_span_comes_again_in_order_and_byte_for_byte(
    delivered: None, ledger: Ledger, replays: Replays, sink: FakeSink, start: Callable[[], Shipper]
) -> None:
    replays.ask("fake", at(10), at(130), LATER)
    start()
    wait_done(replays, sink)
    assert sink.again == ledger.after(10, 120)
    assert ledger.cursor("fake") == 200
    assert sink.taken == []
    assert list(replays.folder.iterdir()) == [], "nothing is left behind"


def test_it_is_taken_up_while_the_shipper_runs_and_does_not_disturb_what_is_fresh(
    delivered: None, ledger: Ledger, replays: Replays, sink: FakeSink, start: Callable[[], Shipper]
) -> None:
    start()
    for number in range(200, 400):
        ledger.commit([an_entry(number, created_at=iso_utc(at(number)))])
        if number == 250:
            replays.ask("fake", at(0), at(200), LATER)
    sink.until(lambda: len(sink.taken) == 200)
    wait_done(replays, sink)
    assert sink.sequences == list(range(201, 401))
    assert [one.sequence for one in sink.again] == list(range(1, 201))


def test_what_is_not_delivered_yet_is_left_to_the_first_lane(
    ledger: Ledger, replays: Replays, sink: FakeSink, start: Callable[[], Shipper]
) -> None:
    ledger.register(["fake"])
    ledger.commit([an_entry(n, created_at=iso_utc(at(n))) for n in range(100)])
    ledger.advance("fake", 40)
    replays.ask("fake", at(0), at(100), LATER)
    sink.away = "away"
    start()
    wait_done(replays, sink)
    assert [one.sequence for one in sink.again] == list(range(1, 41))
    sink.away = None
    sink.until(lambda: len(sink.taken) == 60)
    assert sink.sequences == list(range(41, 101)), "each once, in order"


def test_a_kill_repeats_and_loses_none(
    delivered: None, ledger: Ledger, replays: Replays, sink: FakeSink, start: Callable[[], Shipper]
) -> None:
    name = replays.ask("fake", at(0), at(200), LATER)
    sink.at_most = 1
    one = start()
    sink.until(lambda: len(sink.again) >= 20)
    one.stop(2)
    assert replays.names() == [name]
    sink.at_most = None
    start()
    wait_done(replays, sink)
    assert list(dict.fromkeys(stored.sequence for stored in sink.again)) == list(range(1, 201))


def test_it_can_be_cancelled(
    delivered: None, replays: Replays, sink: FakeSink, start: Callable[[], Shipper], caplog: pytest.LogCaptureFixture
) -> None:
    name = replays.ask("fake", at(0), at(200), LATER)
    sink.at_most = 1
    with caplog.at_level(logging.INFO, "weldwatch"):
        one = start()
        sink.until(lambda: len(sink.again) >= 5)
        replays.cancel(name)
        next_one = replays.ask("fake", at(199), at(200), LATER)
        wait_done(replays, sink)
        one.stop(2)
    assert len(sink.again) < 200
    assert sink.again[-1].sequence == 200
    assert f"replay {name} is cancelled after" in caplog.text
    assert f"replay {next_one} is done, 1 results" in caplog.text
    assert list(replays.folder.iterdir()) == []


def test_trouble_of_its_own_does_not_hold_up_what_is_fresh(
    delivered: None, ledger: Ledger, replays: Replays, sink: FakeSink, start: Callable[[], Shipper]
) -> None:
    replays.ask("fake", at(0), at(200), LATER)
    sink.again_away = "a quota is used up"
    start()
    ledger.commit([an_entry(n, created_at=iso_utc(at(n))) for n in range(200, 230)])
    sink.until(lambda: len(sink.taken) == 30)
    assert sink.again == []
    sink.again_away = None
    wait_done(replays, sink)
    assert len(sink.again) == 200


def test_a_fault_of_its_own_does_not_either(
    delivered: None, ledger: Ledger, replays: Replays, sink: FakeSink, start: Callable[[], Shipper],
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(sink, "deliver_again", lambda _batch: 1 // 0)
    replays.ask("fake", at(0), at(200), LATER)
    start()
    ledger.commit([an_entry(n, created_at=iso_utc(at(n))) for n in range(200, 230)])
    sink.until(lambda: len(sink.taken) == 30)
    assert "ZeroDivisionError" in caplog.text
    assert len(replays.names()) == 1, "it is tried again"


def test_what_the_sink_never_takes_is_passed_over_and_named(
    delivered: None, replays: Replays, sink: FakeSink, start: Callable[..., Shipper], ledger: Ledger,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    sink.refuses, sink.at_most = {3, 60}, 1
    replays.ask("fake", at(0), at(100), LATER)
    health = Watched()
    start(health)
    wait_done(replays, sink)
    assert [one.sequence for one in sink.again] == [n for n in range(1, 101) if n not in (3, 60)]
    assert ledger.dead() == []
    assert caplog.text.count("passes over result") == 2
    assert health.counters()["fake_replayed"] == 98


def test_it_holds_nothing_back_from_pruning(
    delivered: None, ledger: Ledger, replays: Replays, sink: FakeSink, start: Callable[[], Shipper]
) -> None:
    replays.ask("fake", at(0), at(200), LATER)
    sink.at_most, sink.again_away = 1, "away"
    start()
    ledger.close()
    reopened = Ledger.open(replays.folder.parent, SystemClock())
    assert reopened.prune(at(150)) == 150
    other = FakeSink()
    shipper = Shipper(other, reopened, Health(), SystemClock(), replays)
    shipper.start()
    wait_done(replays, other)
    shipper.stop(2)
    reopened.close()
    assert [one.sequence for one in other.again] == list(range(151, 201))


def test_a_new_ledger_counts_anew(
    delivered: None, ledger: Ledger, replays: Replays, sink: FakeSink, start: Callable[[], Shipper]
) -> None:
    name = replays.ask("fake", at(0), at(200), LATER)
    replays.note(name, Progress(ledger_id="another", last=5000, total=5000, at=4000, sent=4000))
    start()
    wait_done(replays, sink)
    assert len(sink.again) == 200


@settings(max_examples=25, deadline=None)
@given(
    minutes=st.lists(st.integers(0, 50), min_size=1, max_size=60),
    since=st.integers(0, 50),
    length=st.integers(1, 50),
    cursor=st.integers(0, 60),
    at_most=st.integers(1, 60),
)
def test_whatever_the_clock_did_it_is_just_what_was_made_then(
    tmp_path_factory: pytest.TempPathFactory, minutes: list[int], since: int, length: int, cursor: int, at_most: int
) -> None:
    folder = tmp_path_factory.mktemp("property")
    ledger = Ledger.open(folder, SystemClock())
    ledger.register(["fake"])
    made = ledger.commit([an_entry(n, created_at=iso_utc(at(minute))) for n, minute in enumerate(minutes)])
    cursor = min(cursor, len(made))
    replays, sink, clock = Replays(folder), FakeSink(), ManualClock(LATER)
    replays.ask("fake", at(since), at(since + length), LATER)
    sink.at_most = at_most
    lane = Lane("fake", sink, replays, ledger, Health(), clock)
    while replays.names():
        clock.advance(lane.pause_s())
        lane.step(cursor)
    ledger.close()
    wanted = [one for one in made[:cursor] if at(since) <= parse_iso(one.created_at) < at(since + length)]
    assert sink.again == wanted


def test_wishes_that_are_none(
    delivered: None, replays: Replays, sink: FakeSink, start: Callable[[], Shipper], caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever can write into the state folder can do worse; here only: it is said, and nothing stops."""
    replays.folder.mkdir()
    (replays.folder / "0.json").write_bytes(b'{"sink": "\xff"}')
    (replays.folder / "1.json").mkdir()
    (replays.folder / "2.json").write_text('{"sink": "fake", "since": 1}')
    (replays.folder / "10.json").symlink_to("/nowhere")
    os.mkfifo(replays.folder / "11.json")
    replays.ask("files", at(0), at(1), LATER)
    replays.ask("fake", at(0), at(1), LATER)
    start()
    sink.until(lambda: len(sink.again) == 1)
    assert caplog.text.count("is no replay that can be read; remove it") == 5


def test_mistakes_are_one_line(replays: Replays) -> None:
    with pytest.raises(UsageError, match="is not before until"):
        replays.ask("fake", at(1), at(1), LATER)
    with pytest.raises(UsageError, match=r"no replay '\.\./agent' waits; waiting: none"):
        replays.cancel("../agent")
    for _ in range(16):
        replays.ask("fake", at(0), at(1), LATER)
    with pytest.raises(UsageError, match="16 replays wait already"):
        replays.ask("fake", at(0), at(1), LATER)


# --- against a real mosquitto ---


def test_a_broker_that_lost_what_it_acknowledged_gets_it_again(
    tmp_path: Path, station: Start, replays: Replays, ledger: Ledger
) -> None:
    """Killed without persistence, before the MES came: on the station it is all there."""
    broker = Mosquitto(tmp_path / "forgetful").start()
    one = station(broker.port, replays=replays)
    one.commit(*range(120), created_at=iso_utc(NOON))
    assert one.shipper.wait_drained(20)
    broker.kill()
    with broker, Listener(broker.port, f"{TOPIC}/result") as mes:
        name = replays.ask("mqtt", NOON, at(1), LATER)
        one.commit(*range(120, 140), created_at=iso_utc(LATER))
        mes.until(lambda heard: len({result["sequence"] for result in heard}) == 140)
        wait_done(replays, FakeSink())
        assert name not in replays.names()
        with mes.changed:  # the broker has them all; the MES may still be taking them
            again = ("replayed", "true")
            assert mes.changed.wait_for(lambda: sum(again in _said(one) for one in mes.messages) >= 120, 20)
        told = [(again in _said(message), bytes(message.payload)) for message in mes.messages]
        fresh = [json.loads(body)["sequence"] for replayed, body in told if not replayed]
        assert [body for replayed, body in told if replayed] == [stored.body for stored in ledger.after(0, 120)]
        # What the broker took in its last second comes again by itself, as what it was.
        assert [sequence for sequence in dict.fromkeys(fresh) if sequence > 120] == list(range(121, 141))
    assert one.health.counters()["mqtt_replayed"] == 120


def _said(message: object) -> list[tuple[str, str]]:
    return list(getattr(getattr(message, "properties", None), "UserProperty", []))
