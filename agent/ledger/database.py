"""The ledger's file: how it is laid out, opened, migrated and, when it is damaged, set aside.

    ledger.sqlite3          application_id 'weld', user_version = the schema below, WAL
    ├── about               one row: ledger_id (UUID)
    ├── results             sequence (rowid) → result_id, created_at, image_name, part_id, evaluation, body (UTF-8 JSON)
    ├── seen                key (16 bytes) → source, the sequence it got: which files have their result
    ├── sinks               name → cursor (highest sequence done with), active (configured at present)
    └── dead                (sink, sequence) → result_id, reason, buried_at, body: what a sink refused for good

Invariants
- A commit of results is durable when it returns: WAL with ``synchronous=FULL``, one sync a commit.
- The newest result is never pruned, so the highest ``sequence`` of the table is the highest ever given.
- A damaged file is renamed, never deleted and never written again.
- A file of a newer schema is refused, not touched.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path

from agent.clock import compact_utc
from agent.errors import FatalError, RetryError, UsageError, WeldwatchError

FILE = "ledger.sqlite3"
DAMAGED_MARK = "ledger.damaged"  #: left by a running agent that met damage; the next start sets the file aside
APPLICATION_ID = 0x77656C64
VERSION = 1
#: Files up to this size are checked page by page at every start (some 2 ms a MB); larger ones where they are used.
CHECK_UP_TO_BYTES = 64 << 20

_SCHEMA = """
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
"""
STORED = "SELECT sequence, result_id, created_at, image_name, body FROM results"  #: in the order of ``ports.Stored``
_TABLES = {"about", "results", "seen", "sinks", "dead"}

#: version → statements that lead to the next one; each step runs in one transaction.
MIGRATIONS: dict[int, str] = {}


class DamagedError(WeldwatchError):
    """The file is no sound database. Only this package sees it."""


def connect(path: Path, cap_bytes: int | None = None) -> sqlite3.Connection:
    """A connection that writes, on a sound ledger of the present schema; made where there is none."""
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    except sqlite3.OperationalError as error:
        raise UsageError(
            f"{path}: the ledger cannot be opened ({error}); check owner and mount of the folder"
        ) from None
    try:
        _prepare(connection, path)
        if cap_bytes is not None:
            page = connection.execute("PRAGMA page_size").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {max(1, cap_bytes // page)}")
    except BaseException as error:
        connection.close()
        if isinstance(error, sqlite3.OperationalError) and not may_be_full(error):
            raise UsageError(f"{path}: the ledger cannot be opened ({error}); check owner and mount") from None
        if isinstance(error, sqlite3.Error):
            raise translate(error, path) from error
        raise
    return connection


def connect_reading(path: Path) -> sqlite3.Connection:
    """A second connection of the agent, for reading beside the writer."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    connection.execute("PRAGMA query_only = 1")
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Pragmas, schema, migrations and the check at start."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if version > VERSION and application == APPLICATION_ID:
        raise UsageError(
            f"{path}: written by a newer weldwatch (ledger schema {version}, this one knows {VERSION}); "
            "install that version again, or name another state folder"
        )
    if application != APPLICATION_ID and (tables or version):
        raise UsageError(f"{path}: not a ledger of weldwatch; name another state folder")
    if not tables:  # can only be chosen in an empty file; makes the file shrink when results are pruned
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {8 << 20}")
    if not tables:
        with transaction(connection):
            _run(connection, _SCHEMA)
            connection.execute("INSERT INTO about VALUES (?)", (str(uuid.uuid4()),))
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        return
    _migrate(connection, version)
    if not tables >= _TABLES:
        raise DamagedError(f"tables are missing: {', '.join(sorted(_TABLES - tables))}")
    _check(connection, path)


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    while version < VERSION:
        with transaction(connection):
            _run(connection, MIGRATIONS[version])
            version += 1
            connection.execute(f"PRAGMA user_version = {version}")


def _run(connection: sqlite3.Connection, script: str) -> None:
    """``executescript`` would commit the transaction that is open."""
    for statement in script.split(";\n"):
        if statement.strip():
            connection.execute(statement)


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """Page by page where that takes no time; otherwise the pages that the start itself needs."""
    if path.stat().st_size <= CHECK_UP_TO_BYTES:
        finding = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if finding != "ok":
            raise DamagedError(" ".join(finding.split()))
    for column_name in ("sequence", "created_at"):  # one by one: two in one query make SQLite read the whole index
        connection.execute(f"SELECT max({column_name}) FROM results").fetchone()  # noqa: S608  # our own words
    if len(connection.execute("SELECT ledger_id FROM about").fetchall()) != 1:
        raise DamagedError("the ledger's id is missing")


def span(connection: sqlite3.Connection, since: str, until: str) -> tuple[int, int, int]:
    """First and last sequence and count of the results made in a span of time; (1, 0, 0) without any."""
    row = connection.execute(
        "SELECT coalesce(min(sequence), 1), coalesce(max(sequence), 0), count(*) FROM results "
        "WHERE created_at >= ? AND created_at < ?",
        (since, until),
    ).fetchone()
    return int(row[0]), int(row[1]), int(row[2])


def set_aside(path: Path, now: datetime) -> Path:
    """Rename a damaged ledger, with its WAL, under a dated name that is free. The renamed main file."""
    stem = f"ledger-damaged-{compact_utc(now)}"
    number, target = 0, path.with_name(f"{stem}.sqlite3")
    while target.exists():
        number += 1
        target = path.with_name(f"{stem}-{number}.sqlite3")
    # The WAL goes first: beside a new main file, an old WAL must never lie.
    for suffix in ("-wal", "-shm", ""):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(target.with_name(target.name + suffix))
    return target


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing; whatever goes wrong, also in COMMIT itself, ends in a complete rollback."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def is_full(error: sqlite3.Error) -> bool:
    """Python 3.10 has no error codes on the exception; the text is SQLite's own and stable."""
    return "disk is full" in str(error)


def may_be_full(error: sqlite3.Error) -> bool:
    """Opening needs space for the shared memory of the WAL, and SQLite calls the lack of it an I/O error."""
    return is_full(error) or "disk I/O error" in str(error)


def translate(error: sqlite3.Error, path: Path) -> WeldwatchError:
    """What to do about an error of SQLite: wait (full, busy, unreadable for now), or stop (damaged)."""
    if is_full(error):
        return RetryError(f"{path}: the disk is full; free some space, nothing is lost meanwhile")
    if isinstance(error, sqlite3.OperationalError):
        return RetryError(f"{path}: {error}; check the disk under the state folder")
    if isinstance(error, (sqlite3.ProgrammingError, sqlite3.IntegrityError, sqlite3.DataError)):
        return FatalError(f"{path}: {error}")
    return DamagedError(str(error))


def ledger_id(connection: sqlite3.Connection) -> str:
    """The UUID under which sequences count."""
    return str(connection.execute("SELECT ledger_id FROM about").fetchone()[0])


def column(connection: sqlite3.Connection, query: str, *values: object) -> list[object]:
    """The first column of every row."""
    with closing(connection.execute(query, values)) as rows:
        return [row[0] for row in rows.fetchall()]


def edge(connection: sqlite3.Connection, which: str) -> int | None:
    """The lowest (``min``) or highest (``max``) sequence; None without results."""
    found = connection.execute(f"SELECT {which}(sequence) FROM results").fetchone()[0]  # noqa: S608  # min or max
    return None if found is None else int(found)
