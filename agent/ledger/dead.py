"""Dead letters: results that a sink refused for good, kept with the reason until somebody has looked.

Invariants
- Burying one and passing over it is one transaction: no result is both waiting and dead, or neither.
- Nothing here is waiting for a sink. They go when they are old, last of all when space is short, or when a person who
  has looked says so (``forget``); always the first buried first.
- By age none goes that was buried after one that is still to stay: a clock may have been wrong, the order is ours.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from pathlib import Path

from agent.clock import Clock, iso_utc
from agent.errors import WeldwatchError
from agent.ledger import database
from agent.ledger.access import Access
from agent.ledger.cursors import Cursors
from agent.ports import Stored

_AT_ONCE, _STEPS = 500, 100  #: letters a transaction; transactions a call
_AHEAD = timedelta(days=1)  #: a time that is further ahead is the mistake of a clock, and tells nothing


@dataclass(frozen=True)
class DeadLetter:
    """A result that a sink refused for good."""

    sink: str
    sequence: int
    result_id: str
    reason: str
    buried_at: str
    body: bytes


def all_of(connection: sqlite3.Connection, sink: str | None = None, newest: int = -1) -> list[DeadLetter]:
    """All dead letters, or those of one sink, in order of ``sequence``; or only the ``newest`` buried of them."""
    rows = connection.execute(
        "SELECT sink, sequence, result_id, reason, buried_at, body FROM dead "
        "WHERE :sink IS NULL OR sink = :sink ORDER BY rowid DESC LIMIT :newest",
        {"sink": sink, "newest": newest},
    )
    return sorted((DeadLetter(*row) for row in rows.fetchall()), key=lambda letter: (letter.sequence, letter.sink))


class DeadLetters:
    """As the agent holds them."""

    def __init__(self, access: Access, cursors: Cursors, clock: Clock) -> None:
        self._access, self._cursors, self._clock = access, cursors, clock

    def bury(self, sink: str, stored: Stored, reason: str) -> None:
        """As ``Ledger.bury``."""
        letter = (sink, stored.sequence, stored.result_id, reason, iso_utc(self._clock.now()), stored.body)
        statement = "INSERT OR REPLACE INTO dead VALUES (?, ?, ?, ?, ?, ?)"
        self._cursors.pass_over(sink, stored.sequence, lambda connection: connection.execute(statement, letter))

    def all(self, sink: str | None) -> list[DeadLetter]:
        """As ``Ledger.dead``."""
        with self._access.reading() as reader:
            return all_of(reader, sink)

    def after(self, sink: str, sequence: int) -> set[int]:
        """The sequences after ``sequence`` that ``sink`` refused."""
        query = "SELECT sequence FROM dead WHERE sink = ? AND sequence > ?"
        with self._access.reading() as reader:
            return {int(number) for (number,) in reader.execute(query, (sink, sequence)).fetchall()}

    def last_but(self, sink: str, sequence: int) -> Stored | None:
        """The newest result up to ``sequence`` that ``sink`` did not refuse, if one is still kept."""
        refused = "SELECT 1 FROM dead WHERE sink = ? AND dead.sequence = results.sequence"
        query = f"{database.STORED} WHERE sequence <= ? AND NOT EXISTS ({refused}) ORDER BY sequence DESC LIMIT 1"
        with self._access.reading() as reader:
            row = reader.execute(query, (sequence, sink)).fetchone()
        return Stored(*row) if row is not None else None

    def prune(self, keep_from: datetime) -> int:
        """Drop what was buried before ``keep_from``; how many went, some ten thousand a call at most."""
        dropped = 0
        for _ in range(_STEPS):
            step = self._drop(self._old(iso_utc(keep_from)))
            dropped += step
            if step < _AT_ONCE:
                break
        return dropped

    def shed(self) -> int:
        """Drop the first buried; how many went, some hundred a call."""
        return self._drop([number for number, _ in self._first()])

    def _old(self, keep_from: str) -> list[int]:
        ahead = iso_utc(self._clock.now() + _AHEAD)
        return [number for number, _ in takewhile(lambda one: one[1] < keep_from, self._first(ahead))]

    def _first(self, up_to: str = "~") -> list[tuple[int, str]]:
        """Row, which is the order of burial, and time of the first ones that were buried up to then."""
        query = "SELECT rowid, buried_at FROM dead WHERE buried_at <= ? ORDER BY rowid LIMIT ?"
        with self._access.reading() as reader:
            return [(int(number), str(at)) for number, at in reader.execute(query, (up_to, _AT_ONCE)).fetchall()]

    def _drop(self, numbers: list[int]) -> int:
        def write() -> int:
            with self._access.writing(sync=False) as connection:
                connection.executemany("DELETE FROM dead WHERE rowid = ?", [(number,) for number in numbers])
                return len(numbers)

        return self._access.even_when_full(write) if numbers else 0


def forget(folder: Path, sink: str, before: str | None) -> int:
    """Drop the dead letters of one sink, or those that were buried before a time (as ``iso_utc`` writes it); how many.

    For a command line, beside a running agent: short transactions, in between which it commits. The ledger in the state
    folder ``folder`` was opened by a ``Reader`` before, so it is one, and of this schema. ``RetryError``: busy or full.
    """
    path = folder / database.FILE
    dropped, step = 0, _AT_ONCE
    try:
        # Named by its URI, so that no ledger is made where one has gone meanwhile.
        uri = f"{path.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=10)) as connection:
            while step == _AT_ONCE:
                with database.transaction(connection):
                    chosen = "SELECT rowid FROM dead WHERE sink = ? AND buried_at < ? ORDER BY rowid LIMIT ?"
                    statement = f"DELETE FROM dead WHERE rowid IN ({chosen})"  # noqa: S608  # our own words
                    step = connection.execute(statement, (sink, before or "~", _AT_ONCE)).rowcount
                dropped += step
    except sqlite3.Error as error:
        said: WeldwatchError = database.translate(error, path)
        raise said from error
    return dropped
