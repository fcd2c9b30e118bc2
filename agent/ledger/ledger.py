"""The ledger as the agent holds it: commit first, then let go; deliver, then move the cursor.

Invariants
- ``commit`` returns after the sync. ``sequence`` rises by one a result, without gaps, whatever fails.
- A key gets one result, ever: a second entry under the same key is skipped.
- A cursor only moves forward. It is kept in memory and written along with the next commit, or when a shipper idles: a
  kill in between repeats deliveries and loses none. So a full disk does not keep a sink from draining either.
- One lock for the connection that writes, held for the transaction only; readers have their own connections.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import cast

import msgspec

from agent.clock import Clock, iso_utc
from agent.errors import FatalError, UsageError
from agent.health import Health
from agent.ledger import database
from agent.ledger.database import DamagedError, transaction
from agent.logs import log
from agent.ports import Stored
from agent.result import Result

_LOG = log("ledger")
_CHUNK = 500  #: keys or rows a statement, so that no call holds the lock for long
_SAVE_CURSORS_EVERY_S = 1.0
_COLUMNS = "sequence, result_id, created_at, image_name, body"


@dataclass(frozen=True)
class Entry:
    """A result on its way into the ledger."""

    result: Result
    key: bytes | None  #: names the delivery; None is never taken for a duplicate
    source: str


@dataclass(frozen=True)
class DeadLetter:
    """A result that a sink refused for good."""

    sink: str
    sequence: int
    result_id: str
    reason: str
    buried_at: str
    body: bytes


class Ledger:
    """Open it with ``Ledger.open``; safe to use from any thread."""

    def __init__(self, path: Path, connection: sqlite3.Connection, clock: Clock, health: Health | None) -> None:
        self._path, self._write, self._clock, self._health = path, connection, clock, health
        self._writing = threading.RLock()
        self._changed = threading.Condition()
        self._idle_readers: list[sqlite3.Connection] = []
        self._closed = False
        self._encoder = msgspec.json.Encoder()
        self.ledger_id = database.ledger_id(connection)
        self.last_sequence = self._edge("max") or 0
        self._cursors = {str(name): int(at) for name, at in connection.execute("SELECT name, cursor FROM sinks")}
        self._saved = dict(self._cursors)
        self._saved_at = clock.monotonic()
        self._forget_up_to: dict[str, int] = {}
        self._opened_at_sequence = self.last_sequence

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
            connection = database.connect(path, cap_bytes)
        except DamagedError as damage:
            aside = database.set_aside(path, clock.now())
            mark.unlink(missing_ok=True)
            detail = f"{path} is damaged ({damage}); set aside as {aside.name}, a new ledger begins"
            _LOG.error("ledger_set_aside: %s; results not delivered by then are only in that file", detail)
            if health is not None:
                health.raise_problem("ledger_set_aside", detail)
            connection = database.connect(path, cap_bytes)
        return cls(path, connection, clock, health)

    # --- results ---

    def commit(self, entries: Sequence[Entry]) -> list[Stored]:
        """Store results durably, in one transaction with one sync; those that are new, with their sequence.

        ``RetryError`` when the disk is full: nothing of it is stored, and a later call gives the same sequences.
        """
        if not entries:
            return []
        with self._writing, self._translated():
            with transaction(self._write):
                stored = self._insert(entries)
                cursors = self._write_cursors()
            self._cursors_saved(cursors)
            if stored:
                with self._changed:
                    self.last_sequence = stored[-1].sequence
                    self._changed.notify_all()
        return stored

    def _insert(self, entries: Sequence[Entry]) -> list[Stored]:
        stored: list[Stored] = []
        for entry in entries:
            sequence = self.last_sequence + len(stored) + 1
            if entry.key is not None:
                taken = self._write.execute(
                    "INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", (entry.key, entry.source, sequence)
                )
                if taken.rowcount == 0:
                    continue
            result = msgspec.structs.replace(entry.result, ledger_id=self.ledger_id, sequence=sequence)
            body = self._encoder.encode(result)
            one = Stored(sequence, result.result_id, result.created_at, result.image.name, body)
            self._write.execute(
                "INSERT INTO results VALUES (?, ?, ?, ?, ?, ?, ?)",
                (sequence, one.result_id, one.created_at, one.image_name, result.part_id, result.evaluation, body),
            )
            stored.append(one)
        return stored

    def after(self, sequence: int, limit: int = 100, max_bytes: int = 1 << 20) -> list[Stored]:
        """What follows ``sequence``, in order: at most ``limit`` results and about ``max_bytes``, one at least."""
        found: list[Stored] = []
        size = 0
        with self._translated(), self._reader() as reader:
            query = f"SELECT {_COLUMNS} FROM results WHERE sequence > ? ORDER BY sequence LIMIT ?"  # noqa: S608  # our own column names
            rows = reader.execute(query, (sequence, limit))
            try:
                for row in rows:
                    size += len(row[4])
                    if found and size > max_bytes:
                        break
                    found.append(Stored(*row))
            finally:
                rows.close()  # an open read would keep the WAL from being folded back
        return found

    def wait_for(self, sequence: int, timeout: float, unless: Callable[[], bool] = lambda: False) -> bool:
        """Wait until there is a result after ``sequence``, ``unless()`` is true after a ``wake``, or time is up."""
        with self._changed:
            self._changed.wait_for(lambda: self.last_sequence > sequence or unless(), timeout)
            return self.last_sequence > sequence

    def wake(self) -> None:
        """Let all who wait look at their ``unless`` again."""
        with self._changed:
            self._changed.notify_all()

    # --- sinks ---

    def register(self, sinks: Sequence[str]) -> None:
        """These sinks are configured, and only these hold back pruning. A new one starts at the oldest result kept."""
        with self._writing, self._translated(), transaction(self._write):
            first = self._edge("min")
            before = self.last_sequence if first is None else first - 1
            self._write.execute("UPDATE sinks SET active = 0")
            for name in sinks:
                # A sink that was away from the configuration may point at results pruned meanwhile.
                self._cursors[name] = max(self._cursors.get(name, 0), before)
                self._write.execute(
                    "INSERT INTO sinks VALUES (?1, ?2, 1) ON CONFLICT (name) DO UPDATE SET cursor = ?2, active = 1",
                    (name, self._cursors[name]),
                )
                self._saved[name] = self._cursors[name]

    def cursor(self, sink: str) -> int:
        """The highest sequence that ``sink`` is done with."""
        return self._cursors[sink]

    def advance(self, sink: str, sequence: int) -> None:
        """``sink`` is done with everything up to ``sequence``. Cheap: written later, see the invariants."""
        if sequence <= self._cursors[sink]:
            raise ValueError(f"the cursor of {sink} is at {self._cursors[sink]} and cannot move to {sequence}")
        self._cursors[sink] = sequence
        if self._clock.monotonic() - self._saved_at >= _SAVE_CURSORS_EVERY_S:
            self.save_cursors()

    def save_cursors(self) -> bool:
        """Write the cursors that moved, without a sync of their own. False when the disk would not take them."""
        with self._writing:
            if self._closed or self._cursors == self._saved:
                return True
            try:
                with self._without_sync(), transaction(self._write):
                    cursors = self._write_cursors()
            except sqlite3.OperationalError as error:
                self._saved_at = self._clock.monotonic()
                _LOG.debug("cursors not written, deliveries may be repeated after a restart: %s", error)
                return False
            except sqlite3.Error as error:
                raise self._stop_for(error) from error
            self._cursors_saved(cursors)
            return True

    def bury(self, sink: str, stored: Stored, reason: str) -> None:
        """``sink`` refuses this one for good: keep it as a dead letter with its reason, and go on after it."""
        at = iso_utc(self._clock.now())
        with self._writing, self._translated(), transaction(self._write):
            self._write.execute(
                "INSERT OR REPLACE INTO dead VALUES (?, ?, ?, ?, ?, ?)",
                (sink, stored.sequence, stored.result_id, reason, at, stored.body),
            )
            self._write.execute("UPDATE sinks SET cursor = ? WHERE name = ?", (stored.sequence, sink))
        self._saved[sink] = self._cursors[sink] = stored.sequence

    def dead(self, sink: str | None = None) -> list[DeadLetter]:
        """All dead letters, or those of one sink, oldest first."""
        with self._translated(), self._reader() as reader:
            rows = reader.execute(
                "SELECT sink, sequence, result_id, reason, buried_at, body FROM dead WHERE ?1 IS NULL OR sink = ?1 "
                "ORDER BY sequence, sink",
                (sink,),
            )
            return [DeadLetter(*row) for row in rows.fetchall()]

    def depth(self, sink: str) -> int:
        """How many results ``sink`` has still to deliver."""
        return self.last_sequence - self._cursors[sink]

    def oldest_undelivered(self, sink: str) -> datetime | None:
        """When the first result that ``sink`` has still to deliver was made."""
        from agent.clock import parse_iso

        rows = self.after(self._cursors[sink], limit=1) if self.depth(sink) else []
        return parse_iso(rows[0].created_at) if rows else None

    # --- files seen, and growing old ---

    def seen(self, keys: Sequence[bytes]) -> set[bytes]:
        """Those of ``keys`` that have a result."""
        found: set[bytes] = set()
        with self._translated(), self._reader() as reader:
            for start in range(0, len(keys), _CHUNK):
                chunk = list(keys[start : start + _CHUNK])
                query = f"SELECT key FROM seen WHERE key IN ({','.join('?' * len(chunk))})"  # noqa: S608  # question marks only
                found.update(cast("list[bytes]", database.column(reader, query, *chunk)))
        return found

    def forget_seen(self, source: str, present: Callable[[bytes], bool]) -> int:
        """Drop the keys of ``source`` for which ``present`` is false (files that are gone). How many went.

        ``present`` may be a listing made some time before this call, so a key that came since the call before this one
        is spared until the next: a file that appeared after the listing keeps its one result.
        """
        up_to = self._forget_up_to.get(source, self._opened_at_sequence)
        self._forget_up_to[source] = self.last_sequence
        dropped, last = 0, b""
        query = "SELECT key FROM seen WHERE key > ? AND source = ? AND sequence <= ? ORDER BY key LIMIT ?"
        while True:
            with self._translated(), self._reader() as reader:
                keys = cast("list[bytes]", database.column(reader, query, last, source, up_to, _CHUNK))
            gone = [key for key in keys if not present(key)]
            if gone:
                with self._writing, self._translated(), self._without_sync(), transaction(self._write):
                    self._write.executemany("DELETE FROM seen WHERE key = ?", [(key,) for key in gone])
            dropped += len(gone)
            if len(keys) < _CHUNK:
                return dropped
            last = keys[-1]

    def prune(self, keep_from: datetime) -> int:
        """Drop some results made before ``keep_from`` that every configured sink is done with; how many went.

        A call does a bounded amount of work: call again while it returns more than 0. The newest result always stays.
        """
        with self._writing, self._translated():
            active = database.column(self._write, "SELECT name FROM sinks WHERE active = 1")
            done = min([self._cursors[str(name)] for name in active] + [self.last_sequence - 1])
            self.save_cursors()  # a cursor on disk must never point before what was pruned
            with self._without_sync(), transaction(self._write):
                return self._write.execute(
                    "DELETE FROM results WHERE sequence IN (SELECT sequence FROM results WHERE created_at < ? "
                    "AND sequence <= ? ORDER BY created_at LIMIT ?)",
                    (iso_utc(keep_from), done, _CHUNK),
                ).rowcount

    def close(self) -> None:
        """Write the cursors and let go of the file. Calls after this one fail."""
        self.save_cursors()
        with self._writing:
            self._closed = True
            while self._idle_readers:
                self._idle_readers.pop().close()
            self._write.close()

    # --- inside ---

    def _edge(self, which: str) -> int | None:
        found = self._write.execute(f"SELECT {which}(sequence) FROM results").fetchone()[0]  # noqa: S608  # min or max
        return None if found is None else int(found)

    def _write_cursors(self) -> dict[str, int]:
        """Inside a transaction: the cursors that moved. What to note as saved once it is committed."""
        moved = {name: at for name, at in self._cursors.copy().items() if self._saved.get(name) != at}
        for name, at in moved.items():
            self._write.execute("UPDATE sinks SET cursor = ? WHERE name = ?", (at, name))
        return moved

    def _cursors_saved(self, cursors: dict[str, int]) -> None:
        self._saved.update(cursors)
        self._saved_at = self._clock.monotonic()

    @contextmanager
    def _without_sync(self) -> Iterator[None]:
        """For what may be repeated after a power cut. The file stays consistent all the same."""
        self._write.execute("PRAGMA synchronous = NORMAL")
        try:
            yield
        finally:
            self._write.execute("PRAGMA synchronous = FULL")

    @contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        """A reading connection of its own for as long as the call lasts."""
        try:
            reader = self._idle_readers.pop()
        except IndexError:
            reader = database.connect_reading(self._path)
        try:
            yield reader
        finally:
            if self._closed:
                reader.close()
            else:
                self._idle_readers.append(reader)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._stop_for(error) from error

    def _stop_for(self, error: sqlite3.Error) -> Exception:
        """Damage met while in use is noted beside the file, so that the next start sets it aside."""
        said = database.translate(error, self._path)
        if not isinstance(said, DamagedError):
            return said
        self._path.with_name(database.DAMAGED_MARK).write_text(f"{said}\n", encoding="utf-8")
        return FatalError(f"{self._path}: the ledger is damaged ({said}); a restart sets it aside and goes on")
