"""Dead letters are kept until they are old, last of all make room, and go when a person has looked at them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from agent.clock import ManualClock, SystemClock, iso_utc
from agent.errors import RetryError
from agent.ledger import Ledger
from agent.ledger.dead import forget
from tests.support.results import an_entry

NOW = datetime(2026, 11, 22, 10, 22, 5, tzinfo=timezone.utc)
DAY_S = 86_400.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def ledger(tmp_path: Path, clock: ManualClock) -> Iterator[Ledger]:
    ledger = Ledger.open(tmp_path, clock)
    ledger.register(["files", "mqtt"])
    yield ledger
    ledger.close()


def refuse(ledger: Ledger, sink: str = "mqtt", count: int = 1) -> None:
    """The sink refuses so many results more for good."""
    first = ledger.last_sequence
    for stored in ledger.commit([an_entry(first + n) for n in range(count)]):
        ledger.bury(sink, stored, "too large")


def left(ledger: Ledger) -> list[int]:
    return [letter.sequence for letter in ledger.dead()]


def test_by_age_the_first_refused_go(ledger: Ledger, clock: ManualClock) -> None:
    for _ in range(5):
        refuse(ledger)
        clock.advance(100 * DAY_S)
    assert ledger.prune_dead(clock.now() - timedelta(days=365)) == 2
    assert left(ledger) == [3, 4, 5]
    assert ledger.depth("files") == 5, "what waits is not touched"
    assert ledger.prune_dead(clock.now() - timedelta(days=365)) == 0


def test_by_age_also_more_than_a_step(ledger: Ledger, clock: ManualClock) -> None:
    refuse(ledger, count=1201)
    clock.advance(366 * DAY_S)
    refuse(ledger)
    assert ledger.prune_dead(clock.now() - timedelta(days=365)) == 1201
    assert left(ledger) == [1202]


def test_many_that_were_refused_in_the_future_keep_none_from_going(ledger: Ledger, clock: ManualClock) -> None:
    clock._now += timedelta(days=3650)
    refuse(ledger, count=501)
    clock._now -= timedelta(days=3650)
    refuse(ledger, count=60)
    clock.advance(400 * DAY_S)
    assert ledger.prune_dead(clock.now() - timedelta(days=365)) == 60
    assert len(left(ledger)) == 501


def test_what_a_sink_took_last_is_none_that_it_refused(ledger: Ledger) -> None:
    assert ledger.last_taken("mqtt") is None
    first, second, _third = ledger.commit([an_entry(n) for n in range(3)])
    ledger.advance("mqtt", first.sequence)
    ledger.bury("mqtt", second, "too large")
    ledger.advance("files", second.sequence)
    assert [ledger.last_taken(sink) for sink in ("mqtt", "files")] == [first, second]


def test_a_clock_that_was_wrong_makes_none_old_and_keeps_none_from_going(ledger: Ledger, clock: ManualClock) -> None:
    for wrong in (0, -20 * 365, 10 * 365):  # the second is buried in 2006, the third in 2036
        clock._now += timedelta(days=wrong)
        refuse(ledger)
        clock._now -= timedelta(days=wrong)
        clock.advance(DAY_S)
    assert ledger.prune_dead(clock.now() - timedelta(days=365)) == 0
    clock.advance(366 * DAY_S)
    refuse(ledger)
    assert ledger.prune_dead(clock.now() - timedelta(days=365)) == 2
    assert left(ledger) == [3, 4], "of the one from 2036 it cannot be told"


def test_for_space_the_first_refused_go_in_steps(ledger: Ledger) -> None:
    refuse(ledger, count=700)
    assert (ledger.shed_dead(), ledger.shed_dead(), ledger.shed_dead()) == (500, 200, 0)
    assert left(ledger) == []


def test_a_person_forgets_those_of_one_sink_from_before_a_time(
    ledger: Ledger, clock: ManualClock, tmp_path: Path
) -> None:
    refuse(ledger)
    clock.advance(10)
    refuse(ledger, "files")
    refuse(ledger)
    before = iso_utc(clock.now())
    assert forget(tmp_path, "mqtt", before) == 1
    assert [(letter.sink, letter.sequence) for letter in ledger.dead()] == [("files", 2), ("mqtt", 3)]
    clock.advance(1)
    assert forget(tmp_path, "mqtt", iso_utc(clock.now())) == 1
    assert forget(tmp_path, "mqtt", iso_utc(clock.now())) == 0


def test_forgetting_lets_an_agent_at_work_commit_in_between(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path, SystemClock())
    ledger.register(["mqtt"])
    refuse(ledger, count=3000)
    went: list[int] = []
    thread = threading.Thread(target=lambda: went.append(forget(tmp_path, "mqtt", "2100-01-01T00:00:00.000Z")))
    thread.start()
    committed = 3000
    while thread.is_alive() or committed < 3100:
        committed = ledger.commit([an_entry(committed)])[-1].sequence
    thread.join()
    assert went == [3000]
    assert left(ledger) == []
    assert ledger.last_sequence == committed
    ledger.close()


def test_forgetting_makes_no_ledger_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(RetryError, match="unable to open"):
        forget(tmp_path, "mqtt", "2100-01-01T00:00:00.000Z")
    assert list(tmp_path.iterdir()) == []
