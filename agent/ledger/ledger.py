"""The ledger as the agent holds it: commit first, then let go; deliver, then move the cursor.

Invariants
- ``commit`` returns after the sync. ``sequence`` rises by one a result, without gaps, whatever fails.
- A key gets one result, ever: a second entry under the same key is skipped.
- A cursor moves forward, behind what is delivered, but where its sink doubts what it had accepted (``cursors``).
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from agent.clock import Clock, parse_iso
from agent.errors import UsageError
from agent.health import Health
from agent.ledger import database
from agent.ledger.access import Access, connect_even_when_full
from agent.ledger.cursors import Cursors
from agent.ledger.database import DamagedError
from agent.ledger.dead import DeadLetter, DeadLetters
from agent.ledger.pruning import Pruning, Spare
from agent.ledger.seen import SeenFiles
from agent.logs import log
from agent.ports import Stored
from agent.result import Result

_LOG = log("ledger")


@dataclass(frozen=True)
class Entry:
    """A result on its way into the ledger."""

    result: Result
    key: bytes | None  #: names the delivery; None is never taken for a duplicate
    source: str


class Ledger:
    """Open it with ``Ledger.open``; safe to use from any thread."""

    def __init__(self, path: Path, connection: sqlite3.Connection, clock: Clock) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._encoder = msgspec.json.Encoder()
        self.ledger_id = database.ledger_id(connection)
        self.last_sequence = database.edge(connection, "max") or 0
        self._access = Access(path, connection)
        self._cursors = Cursors(self._access, clock, lambda: self.last_sequence)
        self._dead = DeadLetters(self._access, self._cursors, clock)
        self._pruning = Pruning(self._access, clock, lambda: self.last_sequence, self._cursors.on_disk)
        self._files = SeenFiles(self._access, lambda: self.last_sequence)

    @classmethod
    def open(cls, folder: Path, clock: Clock, health: Health | None = None, *, cap_bytes: int | None = None) -> Ledger:
        """The ledger in ``folder``, made where there is none.

        A damaged one is set aside (problem ``ledger_set_aside``) and a new one begun, with a new ``ledger_id``.
        ``cap_bytes`` bounds the file: beyond it ``commit`` raises ``RetryError`` until pruning made room.
        ``UsageError`` when the folder cannot be written or the ledger was written by a newer weldwatch.
        """
        path = folder / database.FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{folder}: the state folder cannot be made ({error.strerror})") from None
        mark = folder / database.DAMAGED_MARK
        try:
            if mark.exists():
                raise DamagedError(mark.read_text(encoding="utf-8", errors="replace").strip() or "damaged while in use")
            connection = connect_even_when_full(path, cap_bytes)
        except DamagedError as damage:
            aside = database.set_aside(path, clock.now())
            mark.unlink(missing_ok=True)
            detail = f"{path} is damaged ({damage}); set aside as {aside.name}, a new ledger begins"
            _LOG.error("ledger_set_aside: %s; results not delivered by then are only in that file", detail)
            if health is not None:
                health.raise_problem("ledger_set_aside", detail)
            connection = connect_even_when_full(path, cap_bytes)
        return cls(path, connection, clock)

    # --- results ---

    def commit(self, entries: Sequence[Entry]) -> list[Stored]:
        """Store results durably, in one transaction with one sync; those that are new, with their sequence.

        ``RetryError`` when the disk is full: nothing of it is stored, and a later call gives the same sequences.
        """
        if not entries:
            return []
        with self._access.lock:
            with self._cursors.along() as connection:
                stored = self._insert(connection, entries)
            if stored:
                with self._changed:
                    self.last_sequence = stored[-1].sequence
                    self._changed.notify_all()
        self._access.restore_reserve()
        return stored

    def _insert(self, connection: sqlite3.Connection, entries: Sequence[Entry]) -> list[Stored]:
        stored: list[Stored] = []
        for entry in entries:
            sequence = self.last_sequence + len(stored) + 1
            if entry.key is not None:
                taken = connection.execute(
                    "INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", (entry.key, entry.source, sequence)
                )
                if taken.rowcount == 0:
                    continue
            result = msgspec.structs.replace(entry.result, ledger_id=self.ledger_id, sequence=sequence)
            body = self._encoder.encode(result)
            one = Stored(sequence, result.result_id, result.created_at, result.image.name, body)
            connection.execute(
                "INSERT INTO results VALUES (?, ?, ?, ?, ?, ?, ?)",
                (sequence, one.result_id, one.created_at, one.image_name, result.part_id, result.evaluation, body),
            )
            stored.append(one)
        return stored

    def after(self, sequence: int, limit: int = 100, max_bytes: int = 1 << 20) -> list[Stored]:
        """What follows ``sequence``, in order: at most ``limit`` results and about ``max_bytes``, one at least.

        Up to ``last_sequence``: a commit that is done in the file and not yet told of is not there yet.
        """
        found: list[Stored] = []
        size = 0
        with self._access.reading() as reader:
            rows = reader.execute(
                f"{database.STORED} WHERE sequence > ? AND sequence <= ? ORDER BY sequence LIMIT ?",
                (sequence, self.last_sequence, limit),
            )
            for row in rows:
                size += len(row[4])
                if found and size > max_bytes:
                    break
                found.append(Stored(*row))
            rows.close()
        return found

    def span(self, since: str, until: str) -> tuple[int, int, int]:
        """First and last sequence and count of the results made from ``since`` to before ``until`` (as ``iso_utc``
        writes them); sequences in between may have been made at other times. Without any: (1, 0, 0).
        """
        with self._access.reading() as reader:
            return database.span(reader, since, until)

    def wait_for(self, sequence: int, timeout: float, unless: Callable[[], bool] = lambda: False) -> bool:
        """Wait until there is a result after ``sequence``, ``unless()`` is true after a ``wake``, or time is up."""
        with self._changed:
            self._changed.wait_for(lambda: self.last_sequence > sequence or unless(), timeout)
            return self.last_sequence > sequence

    @property
    def damaged(self) -> bool:
        """It met damage while in use. Only opening it anew helps, which sets the file aside and begins a new one."""
        return self._access.damaged

    def wake(self) -> None:
        """Let all who wait look at their ``unless`` again."""
        with self._changed:
            self._changed.notify_all()

    # --- sinks ---

    def register(self, sinks: Sequence[str]) -> None:
        """These sinks are configured, and only these hold back pruning. A new one starts at the oldest result kept.

        Part of every start, so it takes the reserve on a full disk: what was judged before must be delivered.
        """
        self._cursors.register(sinks)

    def cursor(self, sink: str) -> int:
        """The highest sequence that ``sink`` is done with."""
        return self._cursors.at(sink)

    def advance(self, sink: str, sequence: int) -> None:
        """``sink`` is done with everything up to ``sequence``. Cheap: written later, see the invariants."""
        self._cursors.advance(sink, sequence)

    def go_back(self, sink: str, sequence: int) -> set[int]:
        """``sink`` doubts what follows ``sequence``, as far as it is kept: it is to be delivered again.

        Durable, so that the doubt outlives a kill; a full disk does not keep it from moving. The sequences after it
        that are dead letters, and need not come again.
        """
        with self._access.lock:
            self._cursors.go_back(sink, sequence)
            return self._dead.after(sink, sequence)

    def last_taken(self, sink: str) -> Stored | None:
        """The newest result that ``sink`` has accepted, if it is still kept; what it refused for good is none."""
        return self._dead.last_but(sink, self.cursor(sink))

    def save_cursors(self) -> bool:
        """Write the cursors that moved, without a sync of their own. False when the disk would not take them."""
        return self._cursors.save()

    def bury(self, sink: str, stored: Stored, reason: str) -> None:
        """``sink`` refuses this one for good: keep it as a dead letter with its reason, and go on after it."""
        self._dead.bury(sink, stored, reason)

    def dead(self, sink: str | None = None) -> list[DeadLetter]:
        """All dead letters, or those of one sink, oldest first."""
        return self._dead.all(sink)

    def prune_dead(self, keep_from: datetime) -> int:
        """Drop dead letters from before ``keep_from``; how many went, some ten thousand a call at most."""
        return self._dead.prune(keep_from)

    def shed_dead(self) -> int:
        """Space is short, and nothing else may go: drop the oldest dead letters; how many went."""
        return self._dead.shed()

    def depth(self, sink: str) -> int:
        """How many results ``sink`` has still to deliver."""
        return self.last_sequence - self._cursors.at(sink)

    def oldest_undelivered(self, sink: str) -> datetime | None:
        """When the first result that ``sink`` has still to deliver was made."""
        rows = self.after(self._cursors.at(sink), limit=1) if self.depth(sink) else []
        return parse_iso(rows[0].created_at) if rows else None

    # --- files seen, and growing old ---

    def seen(self, keys: Sequence[bytes]) -> set[bytes]:
        """Those of ``keys`` that have a result."""
        return self._files.seen(keys)

    def forget_seen(self, source: str, present: Callable[[bytes], bool]) -> int:
        """Drop the keys of ``source`` for which ``present`` is false (files that are gone). How many went."""
        return self._files.forget(source, present)

    def prune(self, keep_from: datetime) -> int:
        """Drop results made before ``keep_from`` that every configured sink is done with; how many went.

        Some hundred thousand a call at most, in small steps that let commits in between. The newest always stays, and
        so does what this process committed less than that span ago, if the wall clock was wrong when it was made.
        """
        return self._pruning.prune(keep_from)

    def shed(self, evaluation: str, spare: Spare | None = None) -> int:
        """Space is short: drop the oldest delivered results of one evaluation but those to ``spare``; how many went."""
        return self._pruning.shed(evaluation, spare)

    def give_back(self) -> int:
        """Give what pruning left free in the file back to the disk: how many pages, some hundred a call."""
        return self._pruning.give_back()

    def interesting(self, begin: datetime, end: datetime, spare: Spare | None = None) -> set[str]:
        """Names of the images of that time whose results are not OK, not delivered everywhere, or to ``spare``."""
        return self._pruning.interesting(begin, end, spare)

    def holds_day(self, day: str) -> bool:
        """Whether a result made on that day (``YYYY-MM-DD``, UTC) is still kept."""
        with self._access.reading() as reader:
            query = "SELECT 1 FROM results WHERE created_at >= ? AND created_at < ? LIMIT 1"
            return bool(database.column(reader, query, day, f"{day}~"))

    def used_bytes(self) -> int:
        """What the ledger's file holds."""
        return self._pruning.used_bytes()

    def delivered_up_to(self) -> int:
        """The highest sequence that every configured sink is done with."""
        return self._cursors.done()

    def oldest_undelivered_anywhere(self) -> datetime | None:
        """When the first result was made that a configured sink has still to deliver."""
        rows = self.after(self.delivered_up_to(), limit=1)
        return parse_iso(rows[0].created_at) if rows else None

    def close(self) -> None:
        """Write the cursors and let go of the file. Calls after this one fail."""
        self.save_cursors()
        self._access.close()
