"""Full disks, damaged files, newer schemas: what was stored stays stored, and work goes on where it can."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from agent.clock import ManualClock, SystemClock
from agent.errors import FatalError, RetryError, UsageError
from agent.health import Health
from agent.ledger import Ledger
from agent.ledger.database import FILE
from tests.support.results import an_entry

NOW = datetime(2026, 11, 22, 10, 22, 5, tzinfo=timezone.utc)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def ledger(tmp_path: Path, clock: ManualClock) -> Iterator[Ledger]:
    ledger = Ledger.open(tmp_path, clock)
    yield ledger
    ledger.close()


def reopened(folder: Path) -> Ledger:
    return Ledger.open(folder, SystemClock())


# --- faults ---


def test_a_full_disk_stores_nothing_of_a_commit_and_resumes_without_a_gap(tmp_path: Path, clock: ManualClock) -> None:
    ledger = Ledger.open(tmp_path, clock, cap_bytes=200_000)
    ledger.register(["mqtt"])
    numbers = iter(range(100_000))
    last = 0

    def fill() -> None:
        nonlocal last
        while True:
            last = ledger.commit([an_entry(next(numbers)) for _ in range(10)])[-1].sequence

    with pytest.raises(RetryError, match=r"ledger\.sqlite3: the disk is full"):
        fill()
    assert ledger.last_sequence == last
    assert len(ledger.after(0, limit=100_000)) == last
    ledger.advance("mqtt", last - 1)  # a sink drains all the same
    ledger.save_cursors()
    assert ledger.prune(NOW + timedelta(days=1)) > 0
    assert [one.sequence for one in ledger.commit([an_entry(next(numbers))])] == [last + 1]
    ledger.close()


class FullDisk(sqlite3.Connection):
    """SQLite as it answers on a full disk, until the reserve is given up (seen on a tmpfs of 4 MB)."""

    reserve = Path()
    opening: str | None = None  #: said where the WAL is made or read
    writing: str | None = None  #: said where the WAL grows

    def execute(self, sql: str, *values: object) -> sqlite3.Cursor:
        said = self.opening if "journal_mode" in sql else self.writing if sql.startswith("COMMIT") else None
        if said and self.reserve.exists():
            raise sqlite3.OperationalError(said)
        return super().execute(sql, *values)


@pytest.mark.parametrize(
    ("opening", "writing"),
    [
        pytest.param(None, "database or disk is full", id="killed, a WAL is left"),
        pytest.param("disk I/O error", None, id="stopped in order, the WAL has to be made"),
        pytest.param("database or disk is full", "database or disk is full", id="both"),
    ],
)
def test_on_a_full_disk_it_starts_from_its_reserve(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, opening: str | None, writing: str | None
) -> None:
    before = Ledger.open(tmp_path, clock)
    before.register(["files"])
    before.commit([an_entry(n) for n in range(3)])
    before.close()
    real = sqlite3.connect
    monkeypatch.setattr(FullDisk, "reserve", tmp_path / "ledger.reserve")
    monkeypatch.setattr(FullDisk, "opening", opening)
    monkeypatch.setattr(FullDisk, "writing", writing)
    monkeypatch.setattr(sqlite3, "connect", lambda *where, **how: real(*where, **how, factory=FullDisk))
    ledger = Ledger.open(tmp_path, clock)
    ledger.register(["files", "mqtt"])
    assert (ledger.depth("files"), ledger.depth("mqtt")) == (3, 3)
    assert [one.sequence for one in ledger.after(0)] == [1, 2, 3], "what was judged before can be delivered"
    ledger.close()


@pytest.mark.parametrize("said", ["disk I/O error", "database or disk is full"])
def test_a_disk_that_stays_in_trouble_is_one_line(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    Ledger.open(tmp_path, clock).close()
    real = sqlite3.connect
    monkeypatch.setattr(FullDisk, "reserve", tmp_path)
    monkeypatch.setattr(FullDisk, "opening", said)
    monkeypatch.setattr(sqlite3, "connect", lambda *where, **how: real(*where, **how, factory=FullDisk))
    for _ in range(2):  # with the reserve, and without one
        with pytest.raises(UsageError, match=r"ledger\.sqlite3: .*the agent cannot start like this"):
            Ledger.open(tmp_path, clock)


def test_a_damaged_ledger_is_set_aside_and_work_goes_on(
    tmp_path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    first = reopened(tmp_path)
    first.commit([an_entry(n) for n in range(50)])
    first.close()
    file = tmp_path / FILE
    damaged = bytearray(file.read_bytes())
    damaged[4096:] = b"\xa5" * (len(damaged) - 4096)
    file.write_bytes(damaged)
    health = Health()
    with caplog.at_level(logging.ERROR, "weldwatch"):
        second = Ledger.open(tmp_path, clock, health)
    assert "ledger_set_aside" in health.problems()
    (line,) = [record.getMessage() for record in caplog.records]
    assert "set aside as ledger-damaged-20261122T102205000Z.sqlite3" in line
    assert (tmp_path / "ledger-damaged-20261122T102205000Z.sqlite3").read_bytes() == damaged
    assert second.ledger_id != first.ledger_id
    assert [one.sequence for one in second.commit([an_entry(1)])] == [1]
    second.close()


def test_a_file_that_is_no_database_is_set_aside(tmp_path: Path, clock: ManualClock) -> None:
    (tmp_path / FILE).write_bytes(b"not a database, by any means " * 100)
    Ledger.open(tmp_path, clock).close()
    assert len(list(tmp_path.glob("ledger-damaged-*.sqlite3"))) == 1


def test_damage_met_at_work_stops_the_agent_and_the_next_start_sets_the_file_aside(
    tmp_path: Path, clock: ManualClock
) -> None:
    ledger = Ledger.open(tmp_path, clock)
    ledger.register(["mqtt"])
    ledger.commit([an_entry(n) for n in range(2000)])
    ledger.close()
    ledger = Ledger.open(tmp_path, clock)
    with (tmp_path / FILE).open("r+b") as file:
        size = file.seek(0, 2)
        file.seek(8192)
        file.write(b"\x00" * (size - 8192))
    with pytest.raises(FatalError, match="a restart sets it aside"):
        ledger.after(0, limit=2000)
    ledger.close()
    health = Health()
    Ledger.open(tmp_path, clock, health).close()
    assert "ledger_set_aside" in health.problems()


def test_a_newer_schema_is_refused_and_not_touched(tmp_path: Path, clock: ManualClock) -> None:
    Ledger.open(tmp_path, clock).close()
    connection = sqlite3.connect(tmp_path / FILE)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(UsageError, match="newer weldwatch"):
        Ledger.open(tmp_path, clock)
    assert (tmp_path / FILE).read_bytes() == before


def test_somebody_elses_database_is_refused(tmp_path: Path, clock: ManualClock) -> None:
    connection = sqlite3.connect(tmp_path / FILE)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with pytest.raises(UsageError, match="not a ledger of weldwatch"):
        Ledger.open(tmp_path, clock)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path, clock: ManualClock) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="state folder cannot be made"):
        Ledger.open(tmp_path / "file" / "state", clock)


def test_the_reserve_is_held_given_up_for_burying_and_taken_back(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger.open(tmp_path, clock)
    ledger.register(["mqtt"])
    reserve = tmp_path / "ledger.reserve"
    assert reserve.stat().st_blocks * 512 >= 1 << 20
    stored = ledger.commit([an_entry(1)])
    full = sqlite3.OperationalError("database or disk is full")
    real = ledger._access.writing
    tries = iter([full])

    def writing(**options: bool) -> object:
        for error in tries:
            raise RetryError(str(error))
        return real(**options)

    monkeypatch.setattr(ledger._access, "writing", writing)
    ledger.bury("mqtt", stored[0], "too large")
    assert not reserve.exists()
    assert [letter.reason for letter in ledger.dead()] == ["too large"]
    ledger.commit([an_entry(2)])
    assert reserve.exists()
    ledger.close()
