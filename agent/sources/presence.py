"""Which files of a source are done, and which keys the ledger may forget.

Invariants
- A file is done when it was offered by this process or the ledger has its key; a clean scan drops those that are gone.
- The ledger forgets a key only when two clean scans of the same folder, ``FORGET_S`` apart, did not meet its file:
  a share that is not mounted, an unreadable folder or a short rename must not make the station inspect all again.
- Memory: one number a present file; while forgetting is under way one key a present file, and ``MAX_ABSENT`` keys.
"""

from __future__ import annotations

from agent.clock import Clock
from agent.ports import SeenKeys
from agent.sources.settling import Signature

FORGET_S = 3600.0
MAX_ABSENT = 200_000


def fingerprint(path: bytes, signature: Signature) -> int:
    """64 bits for a file; seeded anew by every process, so that nobody can prepare two names that collide."""
    return hash((path, signature))


class Presence:
    """What a source remembers of its files. Used by the source's thread only."""

    def __init__(self, source: str, seen: SeenKeys, clock: Clock, *, may_be_empty: bool) -> None:
        self._source, self._seen, self._clock = source, seen, clock
        self._may_be_empty = may_be_empty  # files that are archived or deleted leave an empty folder behind
        self._root: tuple[int, int] | None = None
        self._done: set[int] = set()
        self._met: set[int] | None = None  #: done files that the running scan has met
        self._keys: set[bytes] | None = None
        self._absent: set[bytes] = set()
        self._forget_at = 0.0

    def same_root(self, root: tuple[int, int]) -> bool:
        """Note which folder this is (device, inode); False when it is another than before."""
        if root == self._root:
            return True
        self._root = root
        self._done.clear()  # its files are looked up in the ledger again
        self._absent.clear()
        self._forget_at = self._clock.monotonic() + FORGET_S
        return False

    def is_done(self, path: bytes, signature: Signature) -> bool:
        """Whether this file needs nothing more."""
        return fingerprint(path, signature) in self._done

    def done(self, path: bytes, signature: Signature) -> None:
        """It was offered, or the ledger has it."""
        number = fingerprint(path, signature)
        self._done.add(number)
        if self._met is not None:
            self._met.add(number)

    def begin(self) -> bool:
        """A scan begins; True when it should name the keys of all it meets, for the ledger to forget the others."""
        self._met = set()
        self._keys = set() if self._clock.monotonic() >= self._forget_at else None
        return self._keys is not None

    def meet(self, path: bytes, signature: Signature, key: bytes | None) -> bool:
        """The scan met a file; True when it is not done yet."""
        if key is not None and self._keys is not None:
            self._keys.add(key)
        number = fingerprint(path, signature)
        if number not in self._done:
            return True
        if self._met is not None:
            self._met.add(number)
        return False

    def end(self, *, clean: bool) -> None:
        """The scan is over; ``clean`` when it saw every folder."""
        keys, met = self._keys, self._met
        self._keys = self._met = None
        if not clean or met is None:
            return
        self._done = met
        if keys is not None:
            self._forget_at = self._clock.monotonic() + FORGET_S
            if keys or self._may_be_empty:
                self._forget(keys)

    def _forget(self, keys: set[bytes]) -> None:
        absent: set[bytes] = set()

        def present(key: bytes) -> bool:
            if key in keys:
                return True
            if key in self._absent:
                return False
            if len(absent) < MAX_ABSENT:
                absent.add(key)
            return True

        self._seen.forget_seen(self._source, present)
        self._absent = absent
