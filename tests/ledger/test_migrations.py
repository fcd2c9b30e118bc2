"""A ledger of an older version is taken over, whole or not at all; the first schema stands here as it was shipped."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from agent.clock import SystemClock
from agent.errors import UsageError
from agent.ledger import Ledger, database
from agent.ledger.database import FILE
from agent.ledger.reader import Reader
from tests.support.results import an_entry, key

#: ``sqlite3 ledger.sqlite3 .dump`` of weldwatch 0.1.0: never to be changed.
FIRST = """
PRAGMA application_id = 2003135588;
PRAGMA user_version = 1;
CREATE TABLE about (ledger_id TEXT NOT NULL);
CREATE TABLE results (
    sequence INTEGER PRIMARY KEY, result_id TEXT NOT NULL, created_at TEXT NOT NULL, image_name TEXT NOT NULL,
    part_id TEXT, evaluation TEXT NOT NULL, body BLOB NOT NULL);
CREATE INDEX results_created ON results (created_at);
CREATE INDEX results_part ON results (part_id) WHERE part_id IS NOT NULL;
CREATE TABLE seen (key BLOB PRIMARY KEY, source TEXT NOT NULL, sequence INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE sinks (name TEXT PRIMARY KEY, cursor INTEGER NOT NULL, active INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE dead (
    sink TEXT NOT NULL, sequence INTEGER NOT NULL, result_id TEXT NOT NULL, reason TEXT NOT NULL,
    buried_at TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (sink, sequence));
INSERT INTO about VALUES ('9072236b-d8e8-4741-b9a4-dd4b5fa4d600');
INSERT INTO results VALUES
    (41, '01a2038d-9875-7f5f-b210-7afc0bc74761', '2026-11-22T10:22:05.141Z', 'a.png', 'A17', 'OK', '{"sequence":41}'),
    (42, '01a2038d-9875-7f5f-b210-7afc0bc74762', '2026-11-22T10:22:06.141Z', 'b.png', NULL, 'NotOK', '{"sequence":42}'),
    (43, '01a2038d-9875-7f5f-b210-7afc0bc74763', '2026-11-22T10:22:07.141Z', 'c.png', NULL, 'NotOK', '{"sequence":43}');
INSERT INTO seen VALUES (x'00000000000000000000000000000007', 'captures', 42);
INSERT INTO sinks VALUES ('files', 43, 1), ('mqtt', 41, 1);
INSERT INTO dead VALUES
    ('mqtt', 41, '01a2038d-9875-7f5f-b210-7afc0bc74761', 'too large', '2026-11-22T10:22:06.000Z', '{}');
"""


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """The state folder of an agent of the first version."""
    folder = tmp_path / "state"
    folder.mkdir()
    with contextlib.closing(sqlite3.connect(folder / FILE)) as connection:
        connection.executescript(f"PRAGMA journal_mode = WAL; {FIRST}")
    return folder


def check_taken_over(folder: Path) -> None:
    ledger = Ledger.open(folder, SystemClock())
    ledger.register(["files", "mqtt"])
    assert ledger.ledger_id == "9072236b-d8e8-4741-b9a4-dd4b5fa4d600"
    assert (ledger.cursor("files"), ledger.cursor("mqtt")) == (43, 41)
    assert [(one.sequence, one.image_name) for one in ledger.after(41)] == [(42, "b.png"), (43, "c.png")]
    assert ledger.seen([key(7), key(8)]) == {key(7)}
    assert [letter.reason for letter in ledger.dead("mqtt")] == ["too large"]
    assert [one.sequence for one in ledger.commit([an_entry(8)])] == [44]
    ledger.close()


def test_the_first_schema_is_taken_over(first: Path) -> None:
    check_taken_over(first)
    with Reader(first) as reader:
        assert [one.sequence for one in reader.results()] == [41, 42, 43, 44]


def test_a_new_ledger_and_one_taken_over_are_alike(first: Path, tmp_path: Path) -> None:
    """Whoever changes the schema writes the migration, too: both ways must lead to the same tables."""
    Ledger.open(first, SystemClock()).close()
    Ledger.open(tmp_path / "new", SystemClock()).close()
    assert schema(first) == schema(tmp_path / "new")


def schema(folder: Path) -> tuple[int, set[tuple[str, str]]]:
    with contextlib.closing(sqlite3.connect(folder / FILE)) as connection:
        made = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
        version = connection.execute("PRAGMA user_version").fetchone()[0]
    return version, {(name, " ".join(sql.split())) for name, sql in made}


# --- the mechanism, whatever steps there are by now: two more are put at the end, and each is cut short everywhere ---

LATER = {
    0: "ALTER TABLE about ADD COLUMN begun_by TEXT;\n"
    "UPDATE about SET begun_by = '0.1.0';\n"
    "CREATE INDEX results_image ON results (image_name);\n",
    1: "CREATE TABLE wishes (number INTEGER PRIMARY KEY, since TEXT NOT NULL);\n"
    "INSERT INTO wishes SELECT sequence, created_at FROM results;\n",
}


def add_steps() -> int:
    """Teach this process two more steps; the version after them."""
    database.MIGRATIONS = {**database.MIGRATIONS, **{database.VERSION + number: text for number, text in LATER.items()}}
    database.VERSION += len(LATER)
    return database.VERSION


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> int:
    """The version after two more steps."""
    monkeypatch.setattr(database, "MIGRATIONS", database.MIGRATIONS)
    monkeypatch.setattr(database, "VERSION", database.VERSION)
    return add_steps()


class Cut(sqlite3.Connection):
    """Finds the disk full, or is killed, before its ``at``-th statement that writes."""

    at, kill = 0, False

    def execute(self, sql: str, *values: object) -> sqlite3.Cursor:
        if sql.startswith(("BEGIN", "ALTER", "UPDATE", "CREATE", "INSERT", "PRAGMA user_version =", "COMMIT")):
            if Cut.at == 0:
                if Cut.kill:
                    os.kill(os.getpid(), signal.SIGKILL)
                raise sqlite3.OperationalError("database or disk is full")
            Cut.at -= 1
        return super().execute(sql, *values)


def full_at(folder: Path, at: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Open it on a disk that is full from a statement on. True when it was never reached."""
    real = sqlite3.connect
    with monkeypatch.context() as patched:
        patched.setattr(sqlite3, "connect", lambda *where, **how: real(*where, **how, factory=Cut))
        patched.setattr(Cut, "at", at)
        try:
            Ledger.open(folder, SystemClock()).close()
        except UsageError:
            return False
    return True


def killed_at(folder: Path, at: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """The same, killed there: a process of its own."""
    work = f"import tests.ledger.test_migrations as here; here.open_to_be_killed({str(folder)!r}, {at})"
    code = subprocess.run([sys.executable, "-c", work], cwd=Path(__file__).parents[2], check=False).returncode
    assert code in (0, -signal.SIGKILL)
    return code == 0


def open_to_be_killed(folder: str, at: int) -> None:
    real = sqlite3.connect
    sqlite3.connect = lambda *where, **how: real(*where, **how, factory=Cut)  # type: ignore[assignment]
    Cut.at, Cut.kill = at, True
    add_steps()
    Ledger.open(Path(folder), SystemClock()).close()


@pytest.mark.parametrize("cut", [killed_at, full_at])
def test_cut_short_anywhere_it_is_taken_over_by_the_next_start(
    first: Path, later: int, monkeypatch: pytest.MonkeyPatch, cut: Callable[[Path, int, pytest.MonkeyPatch], bool]
) -> None:
    for at in count():
        folder = shutil.copytree(first, first.with_name(f"cut-{at}"))
        whole = cut(folder, at, monkeypatch)
        version, made = schema(folder)
        named = {name for name, _ in made}
        assert ("results_image" in named) == (version > later - 2), "a step is done whole or not at all"
        assert ("wishes" in named) == (version == later)
        check_taken_over(folder)
        with contextlib.closing(sqlite3.connect(folder / FILE)) as connection:
            assert connection.execute("SELECT begun_by FROM about").fetchall() == [("0.1.0",)]
            assert connection.execute("SELECT number FROM wishes").fetchall() == [(41,), (42,), (43,)]
        if whole:
            assert at >= 6 + 5, "each statement of both steps was tried"
            return


def test_a_newer_one_is_refused_by_name_and_left_as_it_was(
    first: Path, later: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    Ledger.open(first, SystemClock()).close()
    monkeypatch.undo()
    before = {path.name: path.read_bytes() for path in first.iterdir()}
    with pytest.raises(UsageError, match=f"newer weldwatch .ledger schema {later}, this one knows {database.VERSION}"):
        Ledger.open(first, SystemClock())
    with pytest.raises(UsageError, match=f"ledger schema {later}"):
        Reader(first)
    assert {path.name: path.read_bytes() for path in first.iterdir()} == before
