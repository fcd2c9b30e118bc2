"""How the ledger's file is reached: one connection that writes, under one lock, and a few that read beside it.

Invariants
- Whoever writes holds the lock for one transaction only, never across network or other file work.
- However many threads read at once, at most two reading connections, with their memory, stay open behind them. (SQLite
  keeps the handles of those that are closed, to open the next ones with: POSIX would drop the writer's lock with them.)
- No statement stays open between calls: an open read would keep the WAL from being folded back.
- Errors leave here in the agent's own words: full or unreadable for now is ``RetryError``; damage is ``FatalError`` and
  leaves a mark, so that the next start sets the file aside.
- A megabyte is held in reserve for what must work on a full disk: starting, pruning, burying.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from agent.errors import FatalError, RetryError, UsageError
from agent.ledger import database
from agent.ledger.database import DamagedError, transaction

T = TypeVar("T")

RESERVE = "ledger.reserve"
_RESERVE_BYTES = 1 << 20
_IDLE_READERS = 2  #: kept open between reads: a handful of threads read for a moment each


def connect_even_when_full(path: Path, cap_bytes: int | None) -> sqlite3.Connection:
    """The connection that writes, also where the disk is full: the reserve is for that."""
    try:
        return database.connect(path, cap_bytes)
    except RetryError as error:
        reserve = path.with_name(RESERVE)
        if not reserve.exists():
            raise UsageError(f"{error}; the agent cannot start like this") from None
        reserve.unlink()
    try:
        return database.connect(path, cap_bytes)
    except RetryError as error:
        raise UsageError(f"{error}; the agent cannot start like this") from None


class Access:
    """Takes over ``connection``; safe to use from any thread."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.lock = threading.RLock()  #: for what must happen together with a write
        self.closed = False
        self.damaged = False  #: met damage: nothing can be trusted any more, and the next start sets the file aside
        self._path, self._write = path, connection
        self._idle_readers: list[sqlite3.Connection] = []
        self._counting = threading.Lock()  # guards the readers
        self._reserve = Reserve(path.parent)
        self._reserve.take()

    @contextmanager
    def writing(self, *, sync: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction, all or nothing. Without ``sync`` a power cut may undo it; the file stays sound."""
        with self.lock, self._translated():
            if not sync:
                self._write.execute("PRAGMA synchronous = NORMAL")
            try:
                with transaction(self._write):
                    yield self._write
            finally:
                if not sync:
                    self._write.execute("PRAGMA synchronous = FULL")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A reading connection of its own for as long as the block lasts."""
        with self._translated():
            with self._counting:
                reader = self._idle_readers.pop() if self._idle_readers else None
            if reader is None:
                reader = database.connect_reading(self._path)
            try:
                yield reader
            finally:
                self._put_back(reader)

    def _put_back(self, reader: sqlite3.Connection) -> None:
        """Keep it for the next who reads, unless enough are kept. Without the lock: a commit may hold that."""
        with self._counting:
            keep = not self.closed and len(self._idle_readers) < _IDLE_READERS
            if keep:
                self._idle_readers.append(reader)
        if not keep:
            reader.close()

    def fold_back(self) -> None:
        """Fold the WAL back into the file, as far as no reader is in the way; that is when the file can shrink."""
        with self.lock, self._translated():
            self._write.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def even_when_full(self, work: Callable[[], T]) -> T:
        """Do ``work``; on a full disk give up the reserve and do it again."""
        with self.lock:
            try:
                return work()
            except RetryError:
                if not self._reserve.give_up():
                    raise
                return work()

    def restore_reserve(self) -> None:
        """After a write that went well: take back what was given up, if the disk allows."""
        if not self._reserve.held:
            self._reserve.take()

    def close(self) -> None:
        """Let go of the file; folds the WAL back."""
        with self.lock:
            with self._counting:
                self.closed = True
                idle, self._idle_readers = self._idle_readers, []
            for reader in idle:
                reader.close()
            self._write.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            said = database.translate(error, self._path)
            if not isinstance(said, DamagedError):
                raise said from error
            self.damaged = True
            with suppress(OSError):  # an empty mark is one, too
                self._path.with_name(database.DAMAGED_MARK).write_text(f"{said}\n", encoding="utf-8")
            raise FatalError(
                f"{self._path}: the ledger is damaged ({said}); a restart sets it aside and goes on"
            ) from error


class Reserve:
    """Space on the ledger's disk that nobody else can take."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / RESERVE
        self.held = False

    def take(self) -> None:
        """Hold the reserve, if there is space for it."""
        if self._path.exists() and self._path.stat().st_size >= _RESERVE_BYTES:
            self.held = True
            return
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.posix_fallocate(descriptor, 0, _RESERVE_BYTES)
            finally:
                os.close(descriptor)
            self.held = True
        except OSError:
            self._path.unlink(missing_ok=True)  # a part of it would serve nobody; the next write tries again

    def give_up(self) -> bool:
        """Free the space. False when there was none to free."""
        if not self._path.exists():
            return False
        self._path.unlink()
        self.held = False
        return True
