"""When is a file whole? The pure part of the complete-file guard: no clock, no file system.

    sight ─▶ settling ──stable for settle_s──▶ ready ──take──▶ read and decoded ──▶ done
                ▲                                │
                └── changed ◀── undecided ◀──────┘ did not decode: look again when it changes,
                                                   give up incomplete_s after its last change

Invariants
- A path is taken only after its signature stood still for ``settle_s``, and again only after ``undecided`` or a change.
- Oldest first (mtime, then path) among what is ready; nothing that waits holds up what is ready.
- Spans are measured on the monotonic clock. A modification time counts only where it makes sense: not from the future,
  and for a change that was watched not from before the last look. ``incomplete_s`` counts from the change time, too,
  which no writer can set: some (robocopy) give a file its old time first and its content later.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import NamedTuple

#: How often an undecided file is looked at again while nothing is heard of it.
LOOK_AGAIN_S = 0.5


class Signature(NamedTuple):
    """What changes when a file changes."""

    inode: int
    size: int  #: bytes
    mtime_ns: int


class Taken(NamedTuple):
    """A file to be read now."""

    path: bytes
    signature: Signature


@dataclass
class _Candidate:
    __slots__ = ("due", "limit", "looked", "observed", "ready", "reread", "signature", "since", "touched", "tried")
    signature: Signature
    since: float  #: when it last changed, as far as known
    touched: float  #: when anything of it last changed, its times included
    observed: float  #: when this signature was first seen
    looked: float
    due: float  #: when to look next
    ready: bool
    tried: bool  #: this signature was read and did not decode
    reread: bool  #: read again when due, though nothing changed (permission may have come)
    limit: float  #: when an undecided file is handed over


class Settling:
    """The files between sighting and hand-over. ``now`` is always seconds on the monotonic clock."""

    def __init__(self, settle_s: float, incomplete_s: float) -> None:
        self._settle_s, self._incomplete_s = settle_s, incomplete_s
        self._candidates: dict[bytes, _Candidate] = {}
        self._waiting: list[tuple[float, bytes]] = []
        self._ready: list[tuple[int, bytes]] = []

    def __len__(self) -> int:
        return len(self._candidates)

    def __contains__(self, path: object) -> bool:
        return path in self._candidates

    def sight(self, path: bytes, signature: Signature, now: float, age_s: float, still_s: float = math.inf) -> None:
        """The file was looked at. ``age_s``: wall clock minus mtime; negative for a time in the future.

        ``still_s``: the same of its change time, where that is known.
        """
        candidate = self._candidates.get(path)
        if candidate is None:
            since = now - max(age_s, 0.0)
            candidate = _Candidate(signature, since, since, now, now, -math.inf, False, False, False, math.inf)
            self._candidates[path] = candidate
        elif candidate.signature != signature:
            believed = min(max(age_s, 0.0), now - candidate.looked)
            candidate.signature, candidate.since, candidate.observed = signature, now - believed, now
            candidate.ready = candidate.tried = candidate.reread = False
            candidate.limit = math.inf
        candidate.touched = max(candidate.touched, candidate.since)
        if still_s >= 0:  # a change time from the future would stay from there look after look
            candidate.touched = max(candidate.touched, now - still_s)
        candidate.looked = now
        self._place(path, candidate, now)

    def _place(self, path: bytes, candidate: _Candidate, now: float) -> None:
        """Put it where it belongs: ready, or waiting until it is due."""
        if candidate.ready:
            return
        if candidate.tried:
            ready = now >= candidate.limit or (candidate.reread and now >= candidate.due)
            due = candidate.due if now < candidate.due else min(now + LOOK_AGAIN_S, candidate.limit)
        else:
            due = candidate.since + self._settle_s
            ready = now >= due
        if ready:
            candidate.ready = True
            heapq.heappush(self._ready, (candidate.signature.mtime_ns, path))
        elif candidate.due != due:
            candidate.due = due
            heapq.heappush(self._waiting, (due, path))

    def due(self, now: float) -> list[bytes]:
        """Those that must be looked at now: sight, or forget, each of them."""
        paths = []
        while self._waiting and self._waiting[0][0] <= now:
            due, path = heapq.heappop(self._waiting)
            candidate = self._candidates.get(path)
            if candidate is not None and not candidate.ready and candidate.due == due:
                paths.append(path)
        return paths

    def next_due(self) -> float | None:
        """When ``due`` has something to say next; None when nothing waits. Ready files are due at once (0)."""
        if self.has_ready():
            return 0.0
        while self._waiting:
            due, path = self._waiting[0]
            candidate = self._candidates.get(path)
            if candidate is not None and not candidate.ready and candidate.due == due:
                return due
            heapq.heappop(self._waiting)
        return None

    def has_ready(self) -> bool:
        """Whether ``take`` would give something."""
        while self._ready and not self._is_ready(*self._ready[0]):
            heapq.heappop(self._ready)
        return bool(self._ready)

    def _is_ready(self, mtime_ns: int, path: bytes) -> bool:
        candidate = self._candidates.get(path)
        return candidate is not None and candidate.ready and candidate.signature.mtime_ns == mtime_ns

    def take(self) -> Taken | None:
        """The oldest ready file. Then ``forget`` it, say that it is ``undecided``, or ``put_back``."""
        if not self.has_ready():
            return None
        _, path = heapq.heappop(self._ready)
        candidate = self._candidates[path]
        candidate.ready, candidate.tried, candidate.reread, candidate.limit = False, True, False, math.inf
        return Taken(path, candidate.signature)

    def undecided(self, path: bytes, now: float, *, reread: bool = False, trust_times: bool = True) -> bool:
        """A taken file did not decode, or (``reread``) could not be opened. True: it is kept, for another look.

        False: it has had its ``incomplete_s`` since its last change; it is handed over as it is. Where the file's times
        say nothing (a clock that is not ours, or nothing was read) they count from the first sight.
        """
        candidate = self._candidates[path]
        candidate.limit = (candidate.touched if trust_times and not reread else candidate.observed) + self._incomplete_s
        if now >= candidate.limit:
            return False
        candidate.reread = reread
        candidate.due = min(now + LOOK_AGAIN_S, candidate.limit)
        heapq.heappush(self._waiting, (candidate.due, path))
        return True

    def put_back(self, path: bytes, now: float) -> None:
        """A taken file could not be dealt with for a reason that is not its own: it is ready again shortly.

        One that was dealt with meanwhile is let be.
        """
        candidate = self._candidates.get(path)
        if candidate is None:
            return
        candidate.tried, candidate.due = False, now + LOOK_AGAIN_S
        heapq.heappush(self._waiting, (candidate.due, path))

    def forget(self, path: bytes) -> None:
        """It is gone, or handed over."""
        self._candidates.pop(path, None)
