"""The thread that never stops reading a camera, so that nothing waits in the camera's or the network's buffers.

    connecting ──frame──▶ streaming ──no frame──▶ stalled ──frame──▶ streaming …        file: ──last frame──▶ ended

Invariants
- ``newest`` keeps one frame, ``all`` at most ``buffer``; who is not taken in time is counted (``camera_dropped``). Only
  a file waits, because its frames do.
- A frame that was read before a connection broke is not handed on after it (``newest``).
- Every interruption is reported once it is over: one log line with its length, ``camera_gaps``, ``camera_gap_s``.
- Frames that are the same, pixel for pixel, for ``frozen_s`` are marked frozen: no sensor gives the same twice.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Literal

from agent.errors import RetryError
from agent.health import Health
from agent.logs import log
from agent.sources.camera.grabber import Grab, Grabber

_log = log("sources")

BACKOFF_S = (0.2, 0.4, 0.8, 1.0)  #: between attempts; the last one stays, so that work resumes within seconds
CONNECT_S = 3.0  #: so much longer than ``stall_s`` may the first connection take before it is a problem
JOIN_S = 1.0

State = Literal["connecting", "streaming", "stalled", "ended", "stopped"]


@dataclass(frozen=True)
class Wish:
    """What is wanted of a camera."""

    stall_s: float
    frozen_s: float
    fps: float | None = None  #: at most so many a second; None: all that come
    buffer: int | None = None  #: frames that may wait; None: the newest only
    quiet: bool = False  #: triggered: frames that nobody asked for are not dropped frames


@dataclass(frozen=True)
class Fed:
    """A frame, and for how long the picture has not changed."""

    grab: Grab
    frozen_s: float = 0.0


class Feed:
    """Reads one camera in a thread of its own from ``start`` to ``stop``; ``take`` is called from one other thread."""

    def __init__(self, name: str, grabber: Grabber, wish: Wish, health: Health) -> None:
        self.name, self._grabber, self._wish, self._health = name, grabber, wish, health
        self._ready, self._changed = deque[Fed](), threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"camera {name}", daemon=True)
        self._started = self._last_at = time.monotonic()
        self._cause = "no answer yet"
        self._state: State = "connecting"
        self._broken = False
        self._failure: Exception | None = None
        self._next_due: float | None = None
        self._previous: Grab | None = None
        self._same_since = 0.0

    @property
    def state(self) -> State:
        """Where it stands in the picture above."""
        return self._state

    def is_over(self) -> bool:
        """The end of a file was reached, and its last frame taken."""
        with self._changed:
            return self._state == "ended" and not self._ready

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def stop(self) -> None:
        """End within ``JOIN_S``. A thread that hangs even so is left behind; nothing waits for it."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        self._grabber.close()
        self._thread.join(JOIN_S)
        self._state = "stopped"

    def take(self, timeout_s: float, after: float = 0.0) -> Fed | None:
        """The next frame that arrived after ``after`` (monotonic seconds); None when there is none in time."""
        end = time.monotonic() + timeout_s
        with self._changed:
            while not self._stop.is_set():
                while self._ready:
                    fed = self._ready.popleft()
                    self._changed.notify_all()
                    if fed.grab.at > after and not self._is_stale(fed):
                        return fed
                left = end - time.monotonic()
                if left <= 0 or self._state == "ended":
                    return None
                self._changed.wait(left)
        return None

    def watch(self) -> None:
        """Raise ``camera_stalled`` when no frame came for too long. Called every now and then from outside.

        From outside, because the reading thread may hang in a call. What made that thread fail is raised here.
        """
        if self._failure is not None:
            raise self._failure
        if self._state in ("ended", "stopped") or (self._grabber.waits and self._state == "streaming"):
            return
        quiet_s = time.monotonic() - self._last_at
        if quiet_s > self._wish.stall_s + (CONNECT_S if self._state == "connecting" else 0.0):
            self._state = "stalled"
            if self._health.raise_problem(f"camera_stalled:{self.name}", self._cause):
                _log.error("camera_stalled: %s: no frame for %.1f s: %s; trying on", self.name, quiet_s, self._cause)

    def _is_stale(self, fed: Fed) -> bool:
        """It waited while inspection was held up: of a live camera the next one is wanted, not this."""
        live = not self._grabber.waits and self._wish.buffer is None
        stale = live and time.monotonic() - fed.grab.at > self._wish.stall_s
        if stale and not self._wish.quiet:
            self._health.count("camera_dropped")
        return stale

    # -- the reading thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._read_on()
        except Exception as error:  # noqa: BLE001  # handed to the source's thread, which raises it
            self._failure = error

    def _read_on(self) -> None:
        attempt = 0
        while not self._stop.is_set():
            try:
                self._grabber.open()
                while not self._stop.is_set():
                    grab = self._grabber.read()
                    if grab is None:
                        self._end()
                        return
                    attempt = 0
                    self._arrived(grab)
            except RetryError as error:
                self._broke(str(error))
            self._stop.wait(BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)])
            attempt += 1

    def _end(self) -> None:
        with self._changed:
            self._state = "ended"
            self._changed.notify_all()
        _log.info("camera %s: the film is over", self.name)
        self._health.changed()

    def _broke(self, cause: str) -> None:
        if self._stop.is_set():
            return
        self._cause = cause
        _log.debug("camera %s: %s", self.name, cause)
        self._broken = True
        self._next_due = None
        if self._wish.buffer is None:
            with self._changed:
                self._drop(len(self._ready))
                self._ready.clear()

    def _arrived(self, grab: Grab) -> None:
        self._health.count("camera_frames")
        before, self._last_at = self._last_at, grab.at
        if self._state != "streaming" or self._broken:
            self._resumed(grab.at - before)
        frozen_s = self._unchanged_for(grab)
        if self._is_due(grab.stream_s):
            self._keep(Fed(grab, frozen_s))

    def _resumed(self, gap_s: float) -> None:
        first, self._state, broken, self._broken = self._state == "connecting", "streaming", self._broken, False
        cleared = self._health.clear_problem(f"camera_stalled:{self.name}")
        if first:
            _log.info("camera %s: the first frame", self.name)
        elif broken or cleared:
            self._health.count("camera_gaps")
            self._health.count("camera_gap_s", max(1, round(gap_s)))
            _log.warning("camera_gap: %s: frames again, after a gap of %.1f s: %s", self.name, gap_s, self._cause)
        self._cause = "no frame comes, no error either"
        if not cleared:
            self._health.changed()

    def _unchanged_for(self, grab: Grab) -> float:
        """Seconds since the picture last changed."""
        previous, self._previous = self._previous, grab
        if previous is None or not grab.same_as(previous):
            self._same_since = grab.stream_s
        return grab.stream_s - self._same_since

    def _is_due(self, stream_s: float) -> bool:
        """Thin out to ``fps`` on a grid in time, so that a frame that comes late does not make the next ones late."""
        if self._wish.fps is None:
            return True
        period = 1 / self._wish.fps
        if self._next_due is None or stream_s - self._next_due > 2 * period:
            self._next_due = stream_s
        if stream_s < self._next_due:
            return False
        self._next_due += period
        return True

    def _keep(self, fed: Fed) -> None:
        room = self._wish.buffer or 1
        with self._changed:
            if self._grabber.waits:
                self._changed.wait_for(lambda: len(self._ready) < room or self._stop.is_set())
            while len(self._ready) >= room:
                self._ready.popleft()
                self._drop(1)
            self._ready.append(fed)
            self._changed.notify_all()

    def _drop(self, frames: int) -> None:
        if frames and not self._wish.quiet:
            self._health.count("camera_dropped", frames)
