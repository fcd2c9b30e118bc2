"""What outlives a session: the number of the next one, what was sent of late, and how far the result is known.

state/sparkplug-bdseq     the ``bdSeq`` of the last session, 0 to 255, as text
state/sparkplug-overlap   a sequence, as text: nothing before it was sent in the last seconds of the agent's life
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
from agent.ports import MOST_AGAIN, Stored

FILE, OVERLAP_FILE = "sparkplug-bdseq", "sparkplug-overlap"
_LOG = log("sparkplug")
_MOST, _MOST_BYTES = MOST_AGAIN, 4 << 20
_NOTES = 4  #: times in its seconds that the overlap is written down


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
        try:
            _write(self._path, self._last, sync=True)
        except OSError as error:
            _LOG.debug("%s: %s; after a restart bdSeq may repeat", self._path, error.strerror)
        return self._last

    def _stored(self) -> int:
        try:
            number = int(self._path.read_text(encoding="ascii"))
        except (OSError, ValueError):  # never written, or not by us
            return -1
        return number if 0 <= number <= 255 else -1


def _write(path: Path, number: int, *, sync: bool) -> None:
    """All or nothing. ``OSError`` when it is nothing."""
    aside = path.with_suffix(".new")
    try:
        with aside.open("w", encoding="ascii") as file:
            file.write(f"{number}\n")
            file.flush()
            if sync:
                os.fsync(file.fileno())
        aside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise


class Overlap:
    """The results sent of late, which a host may have missed: a message of QoS 0 is nobody's once it is sent.

    Where it begins is noted in ``file`` now and then, unsynced: a note that is older than it should be, or that
    cannot be read, only brings back more.
    """

    def __init__(self, seconds: float, clock: Clock, file: Path | None = None) -> None:
        self._seconds, self._clock, self._file = seconds, clock, file
        self._noted_at = float("-inf")
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
            if self._file is not None and self._sent and now - self._noted_at >= self._seconds / _NOTES:
                self._noted_at = now
                with contextlib.suppress(OSError):  # the note before stays, and brings back more
                    _write(self._file, self._sent[0][1].sequence, sync=False)

    def before(self) -> int | None:
        """Where the overlap of the agent's last life began, 1 where nobody knows; None where there is to be none."""
        if self._file is None or self._seconds == 0:
            return None
        try:
            return int(self._file.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return 1

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
