"""Looking at a ledger from a command line, also without write access, and with the agent running or not.

Invariants
- Nothing is ever written: no lock that the agent could meet, and no file of SQLite's own (left behind by root, it would
  keep the agent out).
- With the agent running, every call sees what is committed by then.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from agent.errors import FatalError, RetryError, UsageError
from agent.ledger import database, dead
from agent.ledger.dead import DeadLetter
from agent.ports import Stored

_AT_ONCE = 500


@dataclass(frozen=True)
class SinkState:
    """How far a sink is, as written on disk (a running agent may be some seconds ahead)."""

    name: str
    active: bool  #: configured at the agent's last start
    cursor: int
    depth: int
    oldest: str | None  #: created_at of the first result it has still to deliver
    dead: int


class Reader:
    """``with Reader(folder) as ledger: …``. ``UsageError``: no ledger that may be read in the state folder;
    ``FatalError``: it is damaged; ``RetryError``: a part of it turns out to be, or the disk fails.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / database.FILE
        if not self._path.is_file():
            raise UsageError(f"{self._path}: no ledger here; has an agent run with this state folder?")
        self._immutable = False
        self._connection = self._connect()
        self.ledger_id = database.ledger_id(self._connection)

    def _wal(self) -> Path:
        return self._path.with_name(self._path.name + "-wal")

    def _fresh(self) -> sqlite3.Connection:
        """The connection; a new one when an agent has started since."""
        if self._immutable and self._wal().exists():
            self._connection.close()
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        error: Exception | None = None
        # Without a WAL nobody writes, and SQLite would make one; on a read-only mount it reads only as immutable.
        modes = ["mode=ro", "mode=ro&immutable=1"]
        for mode in modes if self._wal().exists() else modes[1:]:
            self._immutable = "immutable" in mode
            connection = sqlite3.connect(f"file:{quote(str(self._path))}?{mode}", uri=True, isolation_level=None)
            try:
                version = connection.execute("PRAGMA user_version").fetchone()[0]
                if version == database.VERSION:
                    connection.execute("SELECT 1 FROM about").fetchone()
                    return connection
                error = UsageError(f"{self._path}: ledger schema {version}, this weldwatch reads {database.VERSION}")
            except sqlite3.OperationalError as trouble:
                error = UsageError(f"{self._path}: cannot be read ({trouble}); check owner and mode of the folder")
            except sqlite3.DatabaseError as trouble:
                error = FatalError(
                    f"{self._path}: is damaged ({trouble}); start the agent, which sets it aside, or stop it and read "
                    f"what can be read: weldwatch outbox salvage {self._path} --out salvaged.jsonl"
                )
            connection.close()
        raise error if error is not None else AssertionError("unreachable")

    def results(
        self,
        *,
        since: str | None = None,
        until: str | None = None,
        part_id: str | None = None,
        evaluation: str | None = None,
        after: int = 0,
        newest: int | None = None,
    ) -> Iterator[Stored]:
        """Results in order of ``sequence``: made from ``since`` to before ``until`` (ISO, UTC), of one part, of one
        evaluation, after a sequence; of all these only the ``newest`` ones, where that is given.
        """
        wanted, values = ["sequence > ?"], [str(after)]
        for condition, value in (
            ("created_at >= ?", since),
            ("created_at < ?", until),
            ("part_id = ?", part_id),
            ("evaluation = ?", evaluation),
        ):
            if value is not None:
                wanted.append(condition)
                values.append(value)
        columns = "sequence, result_id, created_at, image_name, body"
        query = f"SELECT {columns} FROM results WHERE {' AND '.join(wanted)} ORDER BY sequence"  # noqa: S608  # our own words
        if newest is not None:
            query = f"SELECT * FROM ({query} DESC LIMIT {int(newest)}) ORDER BY sequence"  # noqa: S608  # a number
        with self._translated(), closing(self._fresh().execute(query, values)) as rows:
            while chunk := rows.fetchmany(_AT_ONCE):
                yield from (Stored(*row) for row in chunk)

    def span(self, since: str, until: str) -> tuple[int, int, int]:
        """As ``Ledger.span``."""
        with self._translated():
            return database.span(self._fresh(), since, until)

    def sinks(self) -> list[SinkState]:
        """Every sink the ledger knows."""
        with self._translated():
            return self._sinks(self._fresh())

    def _sinks(self, connection: sqlite3.Connection) -> list[SinkState]:
        last = connection.execute("SELECT max(sequence) FROM results").fetchone()[0] or 0
        states = []
        for name, cursor, active in connection.execute("SELECT name, cursor, active FROM sinks").fetchall():
            oldest = connection.execute(
                "SELECT created_at FROM results WHERE sequence > ? ORDER BY sequence LIMIT 1", (cursor,)
            ).fetchone()
            letters = connection.execute("SELECT count(*) FROM dead WHERE sink = ?", (name,)).fetchone()[0]
            states.append(SinkState(name, bool(active), cursor, max(0, last - cursor), oldest and oldest[0], letters))
        return states

    def dead(self, newest: int = -1) -> list[DeadLetter]:
        """All dead letters, or only the ``newest`` ones; oldest first."""
        with self._translated():
            return dead.all_of(self._fresh(), newest=newest)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise RetryError(f"{self._path}: cannot be read ({error}); check the disk under the state folder") from None

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
