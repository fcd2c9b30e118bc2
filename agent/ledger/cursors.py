"""How far each sink is: one cursor a sink, the highest sequence that it is done with.

Invariants
- A cursor moves forward, but where its sink doubts what it had accepted (``go_back``). It is kept in memory and written
  along with a commit every few deliveries or seconds, or when a shipper idles: a kill in between repeats deliveries and
  loses none. It spares the disk a write a result, and a full disk does not keep a sink from draining.
- Only the sinks that are configured (``register``) hold back pruning.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from agent.clock import Clock
from agent.errors import RetryError
from agent.ledger import database
from agent.ledger.access import Access
from agent.logs import log

_LOG = log("ledger")
#: When cursors that moved are written: after so many deliveries or seconds along with a commit, after so many alone.
_ALONG, _ALONE = (20, 5.0), (1000, 10.0)


class Cursors:
    """``last_sequence`` tells the newest sequence of the ledger."""

    def __init__(self, access: Access, clock: Clock, last_sequence: Callable[[], int]) -> None:
        self._access, self._clock, self._last_sequence = access, clock, last_sequence
        with access.reading() as reader:
            rows = reader.execute("SELECT name, cursor FROM sinks").fetchall()
        self._at = {str(name): int(at) for name, at in rows}
        self._saved, self._saved_at = dict(self._at), clock.monotonic()
        self._active: tuple[str, ...] = ()

    def register(self, sinks: Sequence[str]) -> None:
        """As ``Ledger.register``."""
        with self._access.lock:
            cursors = self._access.even_when_full(lambda: self._activate(sinks))
            self._at.update(cursors)
            self._saved.update(cursors)
            self._active = tuple(sinks)

    def _activate(self, sinks: Sequence[str]) -> dict[str, int]:
        with self._access.writing() as connection:
            first = database.edge(connection, "min")
            before = self._last_sequence() if first is None else first - 1
            # A sink that was away from the configuration may point at results pruned meanwhile.
            cursors = {name: max(self._at.get(name, 0), before) for name in sinks}
            connection.execute("UPDATE sinks SET active = 0")
            connection.executemany(
                "INSERT INTO sinks VALUES (?, ?, 1) "
                "ON CONFLICT (name) DO UPDATE SET cursor = excluded.cursor, active = 1",
                list(cursors.items()),
            )
            return cursors

    def at(self, sink: str) -> int:
        """The highest sequence that ``sink`` is done with."""
        return self._at[sink]

    def done(self) -> int:
        """The highest sequence that every configured sink is done with."""
        return min([self._at[sink] for sink in self._active] or [self._last_sequence()])

    def advance(self, sink: str, sequence: int) -> None:
        """As ``Ledger.advance``."""
        if not self._at[sink] < sequence <= self._last_sequence():
            raise ValueError(f"the cursor of {sink} is at {self._at[sink]} and cannot move to {sequence}")
        self._at[sink] = sequence
        if self._due(*_ALONE):
            self.save()

    def go_back(self, sink: str, sequence: int) -> None:
        """As ``Ledger.go_back``: to ``sequence``, or to what is still kept, and no further forward."""
        with self._access.lock:
            with self._access.reading() as reader:
                first = database.edge(reader, "min") or self._last_sequence() + 1
            if (least := max(sequence, first - 1)) < self._at[sink]:
                self._at[sink] = least
                self.save(sync=True)

    def save(self, *, sync: bool = False) -> bool:
        """Write the cursors that moved; without ``sync`` at no cost of their own. False when the disk would not take
        them.
        """
        with self._access.lock:
            if self._access.closed or self._at == self._saved:
                return True
            if self._access.damaged:
                return False
            try:
                with self._access.writing(sync=sync) as connection:
                    cursors = self._write(connection)
            except RetryError as error:
                self._saved_at = self._clock.monotonic()
                _LOG.debug("cursors not written, deliveries may be repeated after a restart: %s", error)
                return False
            self._note(cursors)
            return True

    @contextmanager
    def along(self) -> Iterator[sqlite3.Connection]:
        """A transaction with a sync that takes the cursors along, if it is time. Called with the lock held."""
        with self._access.writing() as connection:
            yield connection
            cursors = self._write(connection) if self._due(*_ALONG) else None
        if cursors is not None:
            self._note(cursors)

    def pass_over(self, sink: str, sequence: int, also: Callable[[sqlite3.Connection], object]) -> None:
        """Move and write one cursor together with ``also``, in one transaction with a sync, on a full disk as well."""

        def write() -> None:
            with self._access.writing() as connection:
                also(connection)
                connection.execute("UPDATE sinks SET cursor = ? WHERE name = ?", (sequence, sink))

        with self._access.lock:
            self._access.even_when_full(write)
            self._saved[sink] = self._at[sink] = sequence

    def on_disk(self) -> dict[str, int]:
        """Write the cursors if the disk takes them; those of the configured sinks as they are on disk."""
        self.save()
        return {sink: self._saved[sink] for sink in self._active or self._saved}

    def _due(self, deliveries: int, seconds: float) -> bool:
        """Whether cursors have moved so far, or were last written so long ago."""
        behind = max((at - self._saved.get(name, 0) for name, at in self._at.copy().items()), default=0)
        return behind >= deliveries or self._clock.monotonic() - self._saved_at >= seconds

    def _write(self, connection: sqlite3.Connection) -> dict[str, int]:
        """Inside a transaction: write the cursors that moved; what to note as saved once it is committed."""
        moved = {name: at for name, at in self._at.copy().items() if self._saved.get(name) != at}
        connection.executemany("UPDATE sinks SET cursor = ? WHERE name = ?", [(at, name) for name, at in moved.items()])
        return moved

    def _note(self, cursors: dict[str, int]) -> None:
        self._saved.update(cursors)
        self._saved_at = self._clock.monotonic()
