"""A thread that lets go of files, so that a target that hangs holds up no inspection.

    release ──▶ waiting ──▶ at work ──▶ gone
                  │ full        │ failed
                  └──▶ left ◀───┘          left ──met by the next rescan──▶ waiting

Invariants
- ``QUEUE`` files wait at most; all there are, where no rescan follows (once). What finds no room, or fails, is left: it
  stays where it is, and the next rescan that meets it hands it in again. A kill leaves all of them so: the ledger has
  them, and the next start meets them.
- After ``TRIES`` failures nothing is tried until the next rescan. What failed before waits behind all others, so that
  files that nobody can move (a folder of somebody else's) keep none of them back.
- Trouble (no permission, full disk, a target that hangs) is a problem on health until nothing is left.
- Memory: ``QUEUE`` entries, and a number or two a file that is left.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from agent.frame import readable_name
from agent.health import Health
from agent.logs import log
from agent.sources.presence import fingerprint
from agent.sources.settling import Signature

_log = log("sources")

QUEUE = 10_000  #: files that wait: some megabytes
TRIES = 20  #: failures that end a round: the target is full or closed, not one file odd
HANGS_S = 30.0  #: one file takes no longer where all is well


@dataclass(frozen=True)
class Entry:
    """A file that is to be let go."""

    key: bytes
    path: bytes
    signature: Signature

    @property
    def number(self) -> int:
        """Stands for the file among those that are left."""
        return fingerprint(self.path, self.signature)


class Releases:
    """``hand_in`` may be called from any thread; ``act`` is called from ours, and raises ``OSError``."""

    def __init__(self, source: str, act: Callable[[Entry], None], health: Health) -> None:
        self._source, self._act, self._health = source, act, health
        self._problem = f"release_failed:{source}"
        self._thread: threading.Thread | None = None
        self._unmet: set[int] = set()  #: left when the running scan began, and not met by it yet
        self._changed = threading.Condition()  # guards all that follows
        self._waiting = deque[Entry]()
        self._at_work: tuple[float, bytes] | None = None  #: since when (monotonic seconds), on what
        self._left: set[int] = set()
        self._odd: set[int] = set()  #: those of them that were tried
        self._failures = 0  #: since the last rescan
        self._closing = self._once = False

    def hand_in(self, entries: Iterable[Entry]) -> None:
        """These files have a durable result."""
        with self._changed:
            for entry in entries:
                if self._takes_more():
                    self._left.discard(entry.number)
                    if self._odd and entry.number not in self._odd:
                        self._waiting.appendleft(entry)
                    else:
                        self._waiting.append(entry)
                else:
                    self._left.add(entry.number)
            self._changed.notify_all()

    def _takes_more(self) -> bool:
        return (self._once or len(self._waiting) < QUEUE) and self._failures < TRIES

    def begin(self, *, once: bool) -> None:
        """Let go of what was handed in, from now on; again is harmless. ``once``: no rescan follows."""
        self._once = once
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"release {self._source}", daemon=True)
            self._thread.start()

    def close(self, timeout_s: float) -> None:
        """Finish what waits, for so long at most. A thread that hangs is left behind, and ends with the process."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is None:
            return
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            _log.warning(
                "source %s: release_failed: %d files with a result are not let go yet; the next start does it",
                self._source, len(self._waiting) + 1,
            )  # fmt: skip

    # -- the scans of the source -------------------------------------------------------------------------------------

    def scan_begins(self) -> None:
        """What failed may be tried again."""
        with self._changed:
            self._failures = 0
            self._unmet = set(self._left)

    def is_left(self, path: bytes, signature: Signature) -> bool:
        """Whether this file, which the scan met, shall be handed in again, and can be."""
        if not self._unmet:
            return False
        number = fingerprint(path, signature)
        self._unmet.discard(number)
        with self._changed:
            return number in self._left and self._takes_more()

    def scan_ends(self, *, clean: bool) -> None:
        """Where the scan saw every folder, what it did not meet is gone. Also the moment to see that a target hangs."""
        hangs = None
        with self._changed:
            if clean:
                self._left -= self._unmet
                self._odd -= self._unmet
            if self._at_work is not None and time.monotonic() - self._at_work[0] > HANGS_S:
                hangs = self._at_work[1]
        self._unmet = set()
        if hangs is not None:
            self.trouble(hangs, OSError(f"no answer for more than {HANGS_S:g} s"))
        self._settle()

    # -- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (entry := self._next()) is not None:
            failure = None
            try:
                self._act(entry)
            except OSError as error:
                failure = error
            except Exception as error:  # noqa: BLE001  # a fault of ours: logged whole, and tried again as any other
                _log.exception("source %s: release_failed: %s; please report it", self._source, error)
                failure = OSError(f"{type(error).__name__}: {error}")
            with self._changed:
                self._at_work = None
                self._odd.discard(entry.number)
                if failure is not None:
                    self._failed(entry)
            if failure is not None:
                self.trouble(entry.path, failure)
            self._settle()

    def _next(self) -> Entry | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            if not self._waiting:
                return None
            entry = self._waiting.popleft()
            self._at_work = time.monotonic(), entry.path
            return entry

    def _failed(self, entry: Entry) -> None:
        self._failures += 1
        self._left.add(entry.number)
        self._odd.add(entry.number)
        if self._failures >= TRIES:
            self._left.update(one.number for one in self._waiting)
            self._waiting.clear()

    def _settle(self) -> None:
        with self._changed:
            pending = self._left or self._waiting or self._at_work
        if not pending:
            self._health.over(self._problem, "files are archived, deleted and rejected again")

    def trouble(self, path: bytes, error: OSError) -> None:
        """A file cannot be let go at present."""
        self._health.count("release_failed")
        text = f"{readable_name(path)}: {error.strerror or error}"
        if self._health.raise_problem(self._problem, text):
            _log.error(
                "source %s: release_failed: cannot let go of %s; the result is safe, the file stays; "
                "tried again at every rescan, look at permissions and space",
                self._source,
                text,
            )
