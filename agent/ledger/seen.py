"""Which files have their result: the ledger as a source sees it.

Invariants: a key is written in the same transaction as its result; it goes only when its file is gone, so the table
stays as small as the capture folders are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from agent.ledger.access import Access
from agent.ledger.database import column

_CHUNK = 500  #: keys a statement, so that no call holds the lock for long


class SeenFiles:
    """``last_sequence`` tells the newest sequence of the ledger."""

    def __init__(self, access: Access, last_sequence: Callable[[], int]) -> None:
        self._access, self._last_sequence = access, last_sequence
        self._at_open = last_sequence()
        self._forget_up_to: dict[str, int] = {}

    def seen(self, keys: Sequence[bytes]) -> set[bytes]:
        """Those of ``keys`` that have a result."""
        found: set[bytes] = set()
        with self._access.reading() as reader:
            for start in range(0, len(keys), _CHUNK):
                chunk = list(keys[start : start + _CHUNK])
                query = f"SELECT key FROM seen WHERE key IN ({','.join('?' * len(chunk))})"  # noqa: S608  # question marks only
                found.update(cast("list[bytes]", column(reader, query, *chunk)))
        return found

    def forget(self, source: str, present: Callable[[bytes], bool]) -> int:
        """Drop the keys of ``source`` for which ``present`` is false (files that are gone). How many went.

        ``present`` may be a listing made some time before this call, so a key that came since the call before this one
        is spared until the next: a file that appeared after the listing keeps its one result.
        """
        up_to = self._forget_up_to.get(source, self._at_open)
        self._forget_up_to[source] = self._last_sequence()
        dropped, last = 0, b""
        query = "SELECT key FROM seen WHERE key > ? AND source = ? AND sequence <= ? ORDER BY key LIMIT ?"
        while True:
            with self._access.reading() as reader:
                keys = cast("list[bytes]", column(reader, query, last, source, up_to, _CHUNK))
            gone = [(key,) for key in keys if not present(key)]
            if gone:
                with self._access.writing(sync=False) as connection:
                    connection.executemany("DELETE FROM seen WHERE key = ?", gone)
            dropped += len(gone)
            if len(keys) < _CHUNK:
                return dropped
            last = keys[-1]
