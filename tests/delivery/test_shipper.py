"""A shipper delivers in order, gives up nothing, and lets nobody wait."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from agent.clock import SystemClock
from agent.delivery.shipper import Shipper
from agent.errors import RetryError
from agent.health import Health
from agent.ledger import Ledger
from agent.ports import Pace
from tests.support.fakes import FakeSink
from tests.support.results import an_entry

Start = Callable[..., Shipper]


@pytest.fixture
def start(ledger: Ledger, health: Health) -> Iterator[Start]:
    """Start a shipper for a sink; all are stopped at the end."""
    shippers: list[Shipper] = []

    def start(*sinks: FakeSink) -> Shipper:
        ledger.register([sink.name for sink in sinks])
        for sink in sinks:
            shippers.append(Shipper(sink, ledger, health, SystemClock()))
            shippers[-1].start()
        return shippers[-len(sinks)]

    yield start
    for shipper in shippers:
        shipper.stop(0)


def commit(ledger: Ledger, numbers: range) -> None:
    ledger.commit([an_entry(n) for n in numbers])


def test_what_is_there_and_what_comes_is_delivered_in_order(ledger: Ledger, health: Health, start: Start) -> None:
    sink = FakeSink()
    commit(ledger, range(25))
    shipper = start(sink)
    assert shipper.wait_drained(20)
    commit(ledger, range(25, 30))
    assert shipper.wait_drained(20)
    assert sink.sequences == list(range(1, 31))
    assert health.counters()["fake_delivered"] == 30
    assert ledger.cursor("fake") == 30


def test_a_part_of_a_batch_counts_and_the_rest_comes_again(ledger: Ledger, start: Start) -> None:
    sink = FakeSink()
    sink.at_most = 3
    commit(ledger, range(10))
    assert start(sink).wait_drained(20)
    assert sink.sequences == list(range(1, 11))


def test_a_sink_that_is_away_gets_everything_once_it_is_back(
    ledger: Ledger, health: Health, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    sink = FakeSink()
    sink.away = "gone fishing"
    commit(ledger, range(5))
    with caplog.at_level(logging.INFO, "weldwatch"):
        shipper = start(sink)
        sink.until(lambda: sink.calls >= 3)
        assert health.problems() == {"fake_undelivered": "gone fishing"}
        sink.away = None
        assert shipper.wait_drained(20)
    assert sink.sequences == [1, 2, 3, 4, 5]
    assert health.problems() == {}
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "fake_undelivered: gone fishing; results are kept and delivered later",
        "fake_undelivered is over: delivering again",
    ]


def test_a_wake_ends_the_pause(ledger: Ledger, start: Start) -> None:
    sink = FakeSink(pace=Pace(backoff_max_s=3600.0))
    sink.away = "away"
    commit(ledger, range(1))
    shipper = start(sink)
    for calls in range(1, 15):  # by itself the pause would be longer than an hour by now
        sink.until(lambda calls=calls: sink.calls >= calls)  # type: ignore[misc]
        sink.wake()
    sink.away = None
    sink.wake()
    assert shipper.wait_drained(20)


def test_what_is_refused_becomes_a_dead_letter_and_the_rest_goes_on(
    ledger: Ledger, health: Health, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    sink = FakeSink()
    sink.refuses = {1, 4, 5}
    commit(ledger, range(7))
    assert start(sink).wait_drained(20)
    assert sink.sequences == [2, 3, 6, 7]
    assert [(letter.sequence, letter.reason) for letter in ledger.dead("fake")] == [
        (n, "the far end never takes this one") for n in (1, 4, 5)
    ]
    counters = {name: count for name, count in health.counters().items() if count}
    assert counters == {"fake_delivered": 4, "fake_dead_letters": 3}
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 3
    assert "sequence 4, A17_000003.png" in errors[1]


# --- a sink that doubts what it had accepted ---


def test_what_is_in_doubt_comes_again_by_itself_and_no_dead_letter_does(
    ledger: Ledger, health: Health, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    sink = FakeSink()
    sink.refuses = {7}
    commit(ledger, range(10))
    shipper = start(sink)
    assert shipper.wait_drained(20)
    sink.until(lambda: len(sink.taken) == 9)
    with caplog.at_level(logging.INFO, "weldwatch"):
        sink.doubts = [6]
        sink.wake()  # without a new result
        sink.until(lambda: len(sink.taken) == 13)
    assert shipper.wait_drained(20)
    assert sink.sequences == [1, 2, 3, 4, 5, 6, 8, 9, 10, 6, 8, 9, 10]
    assert health.counters()["fake_delivered"] == 9, "each counts once"
    assert health.counters()["fake_dead_letters"] == 1
    assert "fake: what it took last may be lost: 5 results are sent once more" in caplog.messages


def test_a_doubt_outlives_the_agent(ledger: Ledger, health: Health) -> None:
    ledger.register(["fake"])
    commit(ledger, range(10))
    sink = FakeSink()
    sink.refuses = {9}
    shipper = Shipper(sink, ledger, health, SystemClock())
    shipper.start()
    assert shipper.wait_drained(20)
    sink.away, sink.doubts = "the broker is dead", [8]
    sink.wake()
    sink.until(lambda: ledger.cursor("fake") == 7)
    assert not shipper.stop(0)
    next_life = FakeSink()
    next_life.refuses = {9}
    shipper = Shipper(next_life, ledger, health, SystemClock())
    shipper.start()
    assert shipper.wait_drained(20)
    shipper.stop(0)
    assert next_life.sequences == [8, 10]
    assert len(ledger.dead("fake")) == health.counters()["fake_dead_letters"] == 1


def test_a_doubt_is_bounded_and_waits_for_a_ledger_that_cannot_be_read(
    ledger: Ledger, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.delivery.shipper.MOST_AGAIN", 4)
    sink = FakeSink()
    commit(ledger, range(10))
    assert start(sink).wait_drained(20)
    real, broken = ledger.go_back, iter([True, True])

    def go_back(name: str, sequence: int) -> set[int]:
        if next(broken, False):
            raise RetryError("disk I/O error")
        return real(name, sequence)

    monkeypatch.setattr(ledger, "go_back", go_back)
    sink.doubts = [1]
    sink.wake()
    sink.until(lambda: len(sink.taken) == 14)
    assert sink.sequences[10:] == [7, 8, 9, 10]


def test_a_sink_that_hangs_delays_no_other_and_no_commit(ledger: Ledger, start: Start) -> None:
    hanging, quick = FakeSink("hanging"), FakeSink("quick")
    hanging.gate.clear()
    start(hanging, quick)
    commit(ledger, range(1))
    hanging.until(lambda: hanging.calls == 1)
    commit(ledger, range(1, 50))
    quick.until(lambda: len(quick.taken) == 50)
    assert ledger.depth("hanging") == 50
    hanging.gate.set()
    hanging.until(lambda: len(hanging.taken) == 50)


def test_a_fault_of_the_sink_is_logged_with_its_trace_and_loses_nothing(
    ledger: Ledger, start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = FakeSink()
    real, broken = sink.deliver, iter([True, True])

    def deliver(batch: object) -> int:
        if next(broken, False):
            raise ZeroDivisionError("a fault")
        return real(batch)  # type: ignore[arg-type]

    monkeypatch.setattr(sink, "deliver", deliver)
    commit(ledger, range(3))
    assert start(sink).wait_drained(20)
    assert sink.sequences == [1, 2, 3]
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None


def test_a_stop_delivers_what_is_there_first(ledger: Ledger, health: Health) -> None:
    sink = FakeSink()
    sink.gate.clear()
    ledger.register(["fake"])
    commit(ledger, range(30))
    shipper = Shipper(sink, ledger, health, SystemClock())
    shipper.start()
    sink.until(lambda: sink.calls == 1)
    threading.Timer(0.05, sink.gate.set).start()
    assert shipper.stop(20)
    assert sink.sequences == list(range(1, 31))
    assert sink.closed == 1


def test_a_stop_does_not_wait_for_a_sink_that_is_away(ledger: Ledger, health: Health) -> None:
    sink = FakeSink(pace=Pace(backoff_max_s=3600.0))
    sink.away = "away"
    ledger.register(["fake"])
    commit(ledger, range(3))
    shipper = Shipper(sink, ledger, health, SystemClock())
    shipper.start()
    sink.until(lambda: sink.calls == 1)
    assert not shipper.stop(3600)
    assert ledger.depth("fake") == 3


def test_a_stop_ends_at_its_deadline(ledger: Ledger, health: Health) -> None:
    sink = FakeSink()
    sink.gate.clear()
    ledger.register(["fake"])
    commit(ledger, range(30))
    shipper = Shipper(sink, ledger, health, SystemClock())
    shipper.start()
    sink.until(lambda: sink.calls == 1)
    assert not shipper.stop(0.05)
    assert len(sink.taken) <= 10


def test_trickling_results_share_a_call(ledger: Ledger, start: Start) -> None:
    sink = FakeSink(pace=Pace(batch=100, interval_s=0.3))
    start(sink)
    began = time.monotonic()
    for n in range(20):
        commit(ledger, range(n, n + 1))
    sink.until(lambda: len(sink.taken) == 20)
    assert sink.calls <= (time.monotonic() - began) / 0.3 + 2
