"""What outlives a session: the number of the next one, what was sent of late, and how far the result is known.

state/sparkplug-bdseq   the ``bdSeq`` of the last session, 0 to 255, as text
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from agent.clock import Clock
from agent.logs import log
from agent.ports import Stored

FILE = "sparkplug-bdseq"
_LOG = log("sparkplug")
_MOST, _MOST_BYTES = 2_000, 4 << 20


class BirthCount:
    """``bdSeq``: tells a host which birth a death belongs to. One more with each connection, across restarts."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._last: int | None = None

    def next(self) -> int:
        """The number of a new session, 0 to 255, round and round. A full disk does not keep it from counting."""
        if self._last is None:
            self._last = self._stored()
        self._last = (self._last + 1) % 256
        aside = self._path.with_suffix(".new")
        try:
            with aside.open("w", encoding="ascii") as file:
                file.write(f"{self._last}\n")
                file.flush()
                os.fsync(file.fileno())
            aside.replace(self._path)
        except OSError as error:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
            _LOG.debug("%s: %s; after a restart bdSeq may repeat", self._path, error.strerror)
        return self._last

    def _stored(self) -> int:
        try:
            number = int(self._path.read_text(encoding="ascii"))
        except (OSError, ValueError):  # never written, or not by us
            return -1
        return number if 0 <= number <= 255 else -1


class Overlap:
    """The results sent of late, which a host may have missed: a message of QoS 0 is nobody's once it is sent."""

    def __init__(self, seconds: float, clock: Clock) -> None:
        self._seconds, self._clock = seconds, clock
        self._sent: deque[tuple[float, Stored]] = deque()
        self._bytes = 0
        self._lock = threading.Lock()

    def add(self, batch: Iterable[Stored]) -> None:
        """These were sent now."""
        now = self._clock.monotonic()
        with self._lock:
            for one in batch:
                self._sent.append((now, one))
                self._bytes += len(one.body)
            self._forget(now)

    def recent(self) -> list[Stored]:
        """What was sent in the last seconds, in order; 2000 results or 4 MB at most."""
        with self._lock:
            self._forget(self._clock.monotonic())
            return [one for _, one in self._sent]

    def _forget(self, now: float) -> None:
        while self._sent and (
            self._sent[0][0] < now - self._seconds or len(self._sent) > _MOST or self._bytes > _MOST_BYTES
        ):
            self._bytes -= len(self._sent.popleft()[1].body)


class Memory:
    """Shared by the sessions of one edge node, of which an ending one and a new one may overlap for a moment."""

    def __init__(self, newest: Callable[[], Stored | None], labels: Iterable[str], overlap: Overlap) -> None:
        self.newest = newest  #: the last result of the ledger, delivered or not
        self.overlap = overlap
        self._labels = tuple(dict.fromkeys(labels))
        self._lock = threading.Lock()

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that are declared, or will be with the next birth."""
        return self._labels

    def learn(self, labels: Iterable[str]) -> bool:
        """Another bundle brings other labels. True when one was not known."""
        with self._lock:
            new = tuple(label for label in dict.fromkeys(labels) if label not in self._labels)
            self._labels += new
        return bool(new)
