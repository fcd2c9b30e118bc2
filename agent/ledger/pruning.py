"""What goes out of the ledger: what is old, and, when space is short, what is least interesting.

Invariants
- Only what every configured sink is done with, by the cursors on disk, goes; and never the newest result, whose
  sequence the next one follows.
- Small transactions, so that no commit waits long; on a full disk the reserve is given up for them.
- Pages that become free are given back to the disk, as far as the file was made to allow it (``auto_vacuum``).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from agent.clock import Clock, iso_utc
from agent.ledger import database
from agent.ledger.access import Access
from agent.ledger.age import Ages

AT_ONCE, _STEPS = 500, 400  #: results a transaction; transactions a call
_GIVE_BACK_PAGES = 500
_LATE = timedelta(minutes=10)  #: from the capture of an image to its result, at most


class Pruning:
    """``last_sequence()`` is the newest result's; ``save_cursors()`` writes the cursors and tells what is on disk."""

    def __init__(
        self,
        access: Access,
        clock: Clock,
        last_sequence: Callable[[], int],
        save_cursors: Callable[[], Mapping[str, int]],
    ) -> None:
        self._access, self._last_sequence, self._save_cursors = access, last_sequence, save_cursors
        self._ages = Ages(clock, last_sequence())
        self._shed_up_to: dict[str, int] = {}  # evaluation → of these, all up to here are gone

    def prune(self, keep_from: datetime) -> int:
        """Drop results made before ``keep_from``; how many went, some hundred thousand a call at most.

        What this process committed less than that span ago stays, if the wall clock was wrong when it was made.
        """
        dropped, old_up_to = 0, self._ages.old_up_to(keep_from, self._last_sequence())
        chosen = (
            "DELETE FROM results WHERE sequence IN (SELECT sequence FROM results WHERE created_at < ? "
            "AND sequence <= ? ORDER BY created_at LIMIT ?)"
        )
        for _ in range(_STEPS):
            step = self._drop(lambda done: (chosen, (iso_utc(keep_from), min(done, old_up_to), AT_ONCE)))
            dropped += step
            if step < AT_ONCE:
                break
        return dropped

    def shed(self, evaluation: str) -> int:
        """Drop the oldest results of one evaluation and give their space back; how many went, some hundred a call."""
        begin = self._shed_up_to.get(evaluation, 0)
        with self._access.reading() as reader:
            query = "SELECT sequence FROM results WHERE sequence > ? AND sequence <= ? AND evaluation = ? LIMIT ?"
            done = min([*self._save_cursors().values(), self._last_sequence() - 1])
            found = database.column(reader, query, begin, done, evaluation, AT_ONCE)
        if not found:
            return 0
        last = int(str(found[-1]))
        statement = "DELETE FROM results WHERE sequence > ? AND sequence <= ? AND sequence <= ? AND evaluation = ?"
        went = self._drop(lambda done: (statement, (begin, last, done, evaluation)))
        self._shed_up_to[evaluation] = last
        self._access.even_when_full(self._give_back)
        return went

    def interesting(self, begin: datetime, end: datetime) -> set[str]:
        """Names of the images of that time whose results are not OK, or not delivered everywhere."""
        done = min(self._save_cursors().values(), default=self._last_sequence())
        query = (
            "SELECT image_name FROM results WHERE created_at >= ? AND created_at < ? "
            "AND (evaluation != 'OK' OR sequence > ?)"
        )
        with self._access.reading() as reader:
            return set(map(str, database.column(reader, query, iso_utc(begin), iso_utc(end + _LATE), done)))

    def used_bytes(self) -> int:
        """What the file holds; pages that are free count as not used."""
        with self._access.reading() as reader:
            pages, free, size = (
                int(reader.execute(f"PRAGMA {name}").fetchone()[0])
                for name in ("page_count", "freelist_count", "page_size")
            )
        return (pages - free) * size

    def _drop(self, statement: Callable[[int], tuple[str, tuple[object, ...]]]) -> int:
        def write() -> int:
            saved = self._save_cursors()  # a cursor on disk must not point before what was pruned
            with self._access.writing(sync=False) as connection:
                text, values = statement(self._done(connection, saved))
                return connection.execute(text, values).rowcount

        return self._access.even_when_full(write)

    def _done(self, connection: sqlite3.Connection, saved: Mapping[str, int]) -> int:
        active = database.column(connection, "SELECT name FROM sinks WHERE active = 1")
        return min([saved[str(name)] for name in active] + [self._last_sequence() - 1])

    def _give_back(self) -> None:
        with self._access.writing(sync=False) as connection:
            connection.execute(f"PRAGMA incremental_vacuum({_GIVE_BACK_PAGES})").fetchall()
