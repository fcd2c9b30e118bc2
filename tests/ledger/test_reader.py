"""A command line looks at the ledger: agent running or not, with or without write access."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from agent.clock import SystemClock, iso_utc, parse_iso
from agent.errors import FatalError, RetryError, UsageError
from agent.ledger import Ledger
from agent.ledger.reader import Reader
from tests.support.results import CREATED, an_entry

START = parse_iso(CREATED)


def at(minute: int) -> str:
    return iso_utc(START + timedelta(minutes=minute))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger.open(tmp_path, SystemClock())
    ledger.register(["files", "mqtt"])
    for n in range(10):
        evaluation = "NotOK" if n % 3 == 0 else "OK"
        ledger.commit([an_entry(n, created_at=at(n), part_id=f"P{n // 5}", evaluation=evaluation)])
    yield ledger
    ledger.close()


def sequences(reader: Reader, **wanted: object) -> list[int]:
    return [one.sequence for one in reader.results(**wanted)]  # type: ignore[arg-type]


def test_results_are_found_by_time_part_and_evaluation(ledger: Ledger, tmp_path: Path) -> None:
    with Reader(tmp_path) as reader:
        assert reader.ledger_id == ledger.ledger_id
        assert sequences(reader) == list(range(1, 11))
        assert sequences(reader, since=at(7)) == [8, 9, 10]
        assert sequences(reader, since=at(2), until=at(4)) == [3, 4]
        assert sequences(reader, part_id="P1", evaluation="NotOK") == [7, 10]
        assert sequences(reader, part_id="P' OR '1'='1") == []
        assert sequences(reader, newest=2) == [9, 10]
        assert sequences(reader, after=8) == [9, 10]
        ledger.commit([an_entry(99)])
        assert sequences(reader, after=10) == [11], "a reader follows what comes meanwhile"


def test_sinks_and_dead_letters_are_shown(ledger: Ledger, tmp_path: Path) -> None:
    ledger.advance("files", 10)
    ledger.bury("mqtt", ledger.after(0)[0], "too large")
    ledger.save_cursors()
    with Reader(tmp_path) as reader:
        files, mqtt = reader.sinks()
        assert (files.name, files.depth, files.oldest, files.dead) == ("files", 0, None, 0)
        assert (mqtt.name, mqtt.active, mqtt.depth, mqtt.oldest, mqtt.dead) == ("mqtt", True, 9, at(1), 1)
        assert [(letter.sink, letter.reason) for letter in reader.dead()] == [("mqtt", "too large")]


def test_reading_changes_nothing_after_a_clean_stop(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path, SystemClock())
    ledger.commit([an_entry(1)])
    ledger.close()
    before = sorted(path.name for path in tmp_path.iterdir())
    with Reader(tmp_path) as reader:
        assert sequences(reader) == [1]
    assert sorted(path.name for path in tmp_path.iterdir()) == before


_AS_NOBODY = """
import os, sys
from pathlib import Path
from agent.ledger.reader import Reader
os.setgid(65534); os.setuid(65534)
with Reader(Path(sys.argv[1])) as reader:
    print(len(list(reader.results())))
"""


@pytest.mark.parametrize("running", [True, False])
def test_a_reader_without_write_access(running: bool) -> None:
    """As root the right is given up for good in a child; an ordinary user's is taken by the folder's mode."""
    folder = Path(f"/var/tmp/weldwatch-reader-{os.getpid()}")  # pytest's own folders are closed to others
    folder.mkdir()
    ledger = Ledger.open(folder, SystemClock())
    try:
        ledger.commit([an_entry(n) for n in range(3)])
        if not running:
            ledger.close()
        folder.chmod(0o555)
        script = _AS_NOBODY if os.getuid() == 0 else _AS_NOBODY.replace("os.setgid(65534); os.setuid(65534)", "")
        command = [sys.executable, "-c", script, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
        assert (done.stdout, done.stderr) == ("3\n", "")
    finally:
        folder.chmod(0o755)
        if running:
            ledger.close()
        shutil.rmtree(folder)


def test_a_reader_that_came_before_the_agent_sees_what_it_writes(tmp_path: Path) -> None:
    Ledger.open(tmp_path, SystemClock()).close()
    with Reader(tmp_path) as reader:
        assert sequences(reader) == []
        ledger = Ledger.open(tmp_path, SystemClock())
        ledger.commit([an_entry(1)])
        assert sequences(reader) == [1]
        ledger.close()


def test_no_ledger_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no ledger here"):
        Reader(tmp_path)


def test_what_is_no_ledger_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite3").write_bytes(b"something else entirely " * 50)
    with pytest.raises(FatalError, match=r"is damaged \(file is not a database\).*weldwatch outbox salvage"):
        Reader(tmp_path)


def test_a_damaged_page_is_one_line(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path, SystemClock())
    ledger.register(["mqtt"])
    ledger.commit([an_entry(n) for n in range(500)])
    ledger.close()
    with (tmp_path / "ledger.sqlite3").open("r+b") as file:
        size = file.seek(0, 2)
        head = 3 * 4096  # schema, map of pages, the table about
        file.seek(head)
        file.write(b"\x00" * (size - head))
    with Reader(tmp_path) as reader, pytest.raises(RetryError, match=r"ledger\.sqlite3: cannot be read"):
        list(reader.results())
    with Reader(tmp_path) as reader, pytest.raises(RetryError, match=r"ledger\.sqlite3: cannot be read"):
        reader.sinks()
