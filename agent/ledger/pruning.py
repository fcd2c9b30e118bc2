"""What goes out of the ledger: what is old, and, when space is short, what is least interesting.

Invariants
- Only what every configured sink is done with, by the cursors on disk, goes; and never the newest result, whose
  sequence the next one follows.
- By age nothing goes that was committed after a result that is still to stay: times are the clock's, and it may have
  been wrong; the order is ours. What carries a time that is still to come is not old.
- Small transactions, so that no commit waits long; on a full disk the reserve is given up for them.
- Pages that become free are given back to the disk, as far as the file was made to allow it (``auto_vacuum``).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import datetime, timedelta
from typing import cast

from agent.clock import Clock, iso_utc
from agent.ledger import database
from agent.ledger.access import Access
from agent.ledger.age import Ages
from agent.ports import Stored

#: Which results are to stay although their evaluation says otherwise (reviewed ones).
Spare = Callable[[Stored], bool]
AT_ONCE, _STEPS = 500, 400  #: results a transaction; transactions a call
_GIVE_BACK_PAGES = 500  #: free pages a transaction; more wait for the next one
_AHEAD = timedelta(days=1)  #: a time that is further ahead is the mistake of a clock
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
        self._clock, self._ages = clock, Ages(clock, last_sequence())
        self._shed_up_to: dict[tuple[str, bool], int] = {}  # evaluation, spared or not → looked at up to here

    def prune(self, keep_from: datetime) -> int:
        """Drop results made before ``keep_from``; how many went, some hundred thousand a call at most.

        What this process committed less than that span ago stays, if the wall clock was wrong when it was made.
        """
        dropped, old_up_to = 0, self._ages.old_up_to(keep_from, self._last_sequence())
        old_up_to = min(old_up_to, self._first_to_stay(keep_from) - 1)
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

    def _first_to_stay(self, keep_from: datetime) -> int:
        """The oldest result made since then and by now; behind the last one when there is none."""
        span = iso_utc(keep_from), iso_utc(self._clock.now() + _AHEAD)
        query = "SELECT sequence FROM results WHERE created_at >= ? AND created_at <= ? ORDER BY created_at LIMIT 1"
        with self._access.reading() as reader:
            first = cast("list[int]", database.column(reader, query, *span))
        return first[0] if first else self._last_sequence() + 1

    def shed(self, evaluation: str, spare: Spare | None = None) -> int:
        """Drop the oldest results of one evaluation, without those to ``spare``, and give their space back.

        How many went, some hundred a call; 0 when there are none.
        """
        key, went = (evaluation, spare is not None), 0
        while not went:
            done = min([*self._save_cursors().values(), self._last_sequence() - 1])
            wanted = "sequence > ? AND sequence <= ? AND evaluation = ? ORDER BY sequence LIMIT ?"
            found = self._stored(wanted, self._shed_up_to.get(key, 0), done, evaluation, AT_ONCE)
            if not found:
                return 0
            going = [one.sequence for one in found if spare is None or not spare(one)]
            went = self._drop_these(going)
            self._shed_up_to[key] = found[-1].sequence
        self.give_back()
        return went

    def give_back(self) -> int:
        """Give pages that are free back to the disk; how many, some hundred a call, 0 when there are none."""
        return self._access.even_when_full(self._give_back)

    def interesting(self, begin: datetime, end: datetime, spare: Spare | None = None) -> set[str]:
        """Names of the images of that time whose results are not OK, not delivered everywhere, or to ``spare``."""
        done = min(self._save_cursors().values(), default=self._last_sequence())
        wanted, span = "created_at >= ? AND created_at < ?", (iso_utc(begin), iso_utc(end + _LATE))
        query = f"SELECT image_name FROM results WHERE {wanted} AND (evaluation != 'OK' OR sequence > ?)"  # noqa: S608  # our own words
        with self._access.reading() as reader, closing(reader.execute(query, (*span, done))) as rows:
            names = {str(name) for (name,) in rows}
        if spare is not None:  # one by one: at a camera's pace their bodies together are hundreds of megabytes
            query = f"{database.STORED} WHERE {wanted}"
            with self._access.reading() as reader, closing(reader.execute(query, span)) as rows:
                names.update(one.image_name for one in (Stored(*row) for row in rows) if spare(one))
        return names

    def _stored(self, wanted: str, *values: object) -> list[Stored]:
        query = f"{database.STORED} WHERE {wanted}"
        with self._access.reading() as reader, closing(reader.execute(query, values)) as rows:
            return [Stored(*row) for row in rows.fetchall()]

    def used_bytes(self) -> int:
        """What the file holds; pages that are free count as not used."""
        with self._access.reading() as reader:
            pages, free, size = (
                int(reader.execute(f"PRAGMA {name}").fetchone()[0])
                for name in ("page_count", "freelist_count", "page_size")
            )
        return (pages - free) * size

    def _drop_these(self, sequences: list[int]) -> int:
        statement = "DELETE FROM results WHERE sequence IN (SELECT value FROM json_each(?)) AND sequence <= ?"
        return self._drop(lambda done: (statement, (json.dumps(sequences), done)))

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

    def _give_back(self) -> int:
        with self._access.writing(sync=False) as connection:
            before = free = _free_pages(connection)
            while free and before - free < _GIVE_BACK_PAGES:
                # A step of the pragma frees one page; how many steps an execute takes differs between Pythons.
                connection.execute(f"PRAGMA incremental_vacuum({_GIVE_BACK_PAGES - (before - free)})").fetchall()
                left = _free_pages(connection)
                if left >= free:  # a file that was made without auto_vacuum
                    break
                free = left
        if before > free:  # the file itself shrinks only once the WAL is folded back
            self._access.fold_back()
        return before - free


def _free_pages(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA freelist_count").fetchone()[0])
