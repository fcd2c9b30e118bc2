"""The camera source: which frames are wanted, and what becomes of one.

    feed ──newest or next──▶ room in the intake? ──▶ crop ──▶ save ──▶ offer ──▶ … commit ──▶ release ──▶ answer

Invariants
- A frame is taken from the feed only when the intake has room: while inspection waits, frames are dropped and counted.
- Damaged frames are NotDecidable, but where any newer one will do (continuous, newest): there they are passed over, for
  ``stall_s`` at most. A camera all of whose frames are damaged is no silent camera.
- Every trigger is answered: with the id of a durable result, or with the reason why there is none.

Counters on health: camera_frames (received), camera_offered (handed over), camera_dropped (wanted, and not taken in
time), camera_damaged, camera_frozen, camera_gaps, camera_gap_s (seconds without frames).
Problems: camera_stalled:<source>, camera_frozen:<source>, camera_unsaved:<source>, frames_not_tidied:<source>.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from agent.clock import Clock
from agent.config import CameraConfig
from agent.errors import RetryError
from agent.frame import Frame, JobAt, no_job
from agent.health import Health
from agent.logs import log
from agent.ports import Offer, SeenKeys
from agent.sources.camera.feed import CONNECT_S, Fed, Feed, Wish
from agent.sources.camera.grabber import Grabber
from agent.sources.camera.store import FrameStore
from agent.sources.camera.taking import Taking

_log = log("sources")

ROUND_S = 0.2  #: how long any wait may keep ``stop`` waiting
FORGET_S = 3600.0
_DAMAGE = ("unreadable_image", "unsupported_format", "image_too_large")  #: what a newer frame makes up for
MAX_TRIGGERS = 100  #: that wait; more are refused


@dataclass(frozen=True)
class Wanted:
    """A frame that was asked for: what arrives after ``since`` (monotonic seconds)."""

    since: float
    answer: Future[str] | None = None  #: None: by the interval


class CameraSource:
    """Implements ``agent.ports.Source`` and ``Triggered`` for one camera. Constructing it opens nothing."""

    def __init__(
        self,
        config: CameraConfig,
        grabber: Callable[[], Grabber],
        store: FrameStore,
        room: Callable[[float], bool],
        seen: SeenKeys,
        health: Health,
        clock: Clock,
        simulated: bool = False,
        job_at: JobAt = no_job,
    ) -> None:
        self.name = config.name
        self._config, self._grabber, self._store, self._room = config, grabber, store, room
        self._seen, self._health = seen, health
        self._taking = Taking(config, store, health, clock, job_at, simulated=simulated)
        self._feed: Feed | None = None
        self._lock = threading.Lock()  # guards the two below: commands and releases come from other threads
        self._asked = threading.Event()
        self._wanted = deque[Wanted]()
        self._answers: dict[bytes, tuple[Future[str], str]] = {}  #: by key, until the result is durable
        self._running, self._offered = False, 0
        self._damaged_since: float | None = None  #: monotonic seconds; no good frame since
        self._next_tick = self._next_forget = 0.0

    def state(self) -> dict[str, Any]:
        """Name, type, url, ``state``: starting, connecting, streaming, stalled, ended or stopped."""
        return {
            "name": self.name,
            "type": "camera",
            "url": self._config.url,
            "state": self._feed.state if self._feed else "starting",
            "offered": self._offered,
        }

    def trigger(self) -> Future[str]:
        """As ``agent.ports.Triggered``."""
        answer: Future[str] = Future()
        answer.set_running_or_notify_cancel()  # it cannot be taken back: whoever waits no longer lets it be
        with self._lock:
            refusal = None
            if self._config.trigger != "command":
                refusal = f"source {self.name} has trigger: {self._config.trigger}, not command"
            elif not self._running:
                refusal = "the agent stops"
            elif len(self._wanted) >= MAX_TRIGGERS:
                refusal = f"{MAX_TRIGGERS} triggers wait already"
            else:
                self._wanted.append(Wanted(time.monotonic(), answer))
                self._asked.set()
        if refusal:
            answer.set_exception(RetryError(refusal))
        return answer

    def release(self, keys: Sequence[bytes]) -> None:
        """These results are durable: whoever asked for one gets its id."""
        with self._lock:
            answers = [self._answers.pop(key) for key in keys if key in self._answers]
        for answer, result_id in answers:
            answer.set_result(result_id)

    def close(self, timeout_s: float) -> None:
        """As ``agent.ports.Source``: nothing is left to be done."""

    def run(self, offer: Offer, stop: threading.Event, *, once: bool = False) -> None:
        """Offer frames as configured until ``stop``; with ``once`` until a film is over, or one frame of a camera."""
        config = self._config
        if once and config.trigger == "command":
            return
        continuous = config.trigger == "continuous"
        buffer = config.buffer if continuous and config.policy == "all" else None
        wish = Wish(config.stall_s, config.frozen_s, config.fps if continuous else None, buffer, quiet=not continuous)
        self._feed = feed = Feed(self.name, self._grabber(), wish, self._health)
        with self._lock:
            self._running = True
        self._store.start()
        feed.start()
        try:
            self._next_tick = time.monotonic()
            give_up = time.monotonic() + config.stall_s + CONNECT_S + 1 if once and config.kind != "file" else None
            while not stop.is_set() and self._round(feed, offer, continuous):
                if once and (feed.is_over() or (give_up and (self._offered or time.monotonic() > give_up))):
                    break
                if feed.is_over():
                    stop.wait(ROUND_S)
        finally:
            feed.stop()
            self._store.stop()
            self._refuse_all()

    def _round(self, feed: Feed, offer: Offer, continuous: bool) -> bool:
        """One look at the feed; False when the agent wants no more."""
        feed.watch()
        self._forget()
        if not continuous:
            return self._serve(feed, offer)
        if not self._room(ROUND_S):
            return True
        fed = feed.take(ROUND_S)
        return fed is None or self._hand_over(fed, offer, None)

    # -- triggered ---------------------------------------------------------------------------------------------------

    def _serve(self, feed: Feed, offer: Offer) -> bool:
        """The oldest wish, if there is one."""
        now = time.monotonic()
        if self._config.interval_s is not None and now >= self._next_tick:
            self._next_tick = max(self._next_tick + self._config.interval_s, now)
            with self._lock:
                if not self._wanted:
                    self._wanted.append(Wanted(now))
        with self._lock:
            wanted = self._wanted[0] if self._wanted else None
        if wanted is None:
            pause = ROUND_S if self._config.interval_s is None else self._next_tick - now
            self._asked.wait(min(ROUND_S, max(0.0, pause)))
            self._asked.clear()
            return True
        late = now - wanted.since > self._config.stall_s
        if not self._room(ROUND_S):
            if late:
                self._forgo(wanted, "nothing is inspected at present: the disk is short or the station overloaded")
            return True
        fed = feed.take(ROUND_S, after=wanted.since)
        if fed is None and not late:
            return True
        with self._lock:
            self._wanted.popleft()
        if fed is not None:
            return self._hand_over(fed, offer, wanted.answer)
        if wanted.answer is None:
            self._health.count("camera_dropped")
            return True
        none = self._taking.none(f"no frame of camera {self.name} within {self._config.stall_s:g} s")
        return self._offer(none, offer, wanted.answer)

    def _forgo(self, wanted: Wanted, why: str) -> None:
        with self._lock:
            self._wanted.popleft()
        if wanted.answer is not None:
            wanted.answer.set_exception(RetryError(why))
        else:
            self._health.count("camera_dropped")

    def _refuse_all(self) -> None:
        with self._lock:
            self._running = False
            left = [wanted.answer for wanted in self._wanted if wanted.answer is not None]
            self._wanted.clear()
        for answer in left:
            answer.set_exception(RetryError("the agent stops"))

    # -- one frame ---------------------------------------------------------------------------------------------------

    def _hand_over(self, fed: Fed, offer: Offer, answer: Future[str] | None) -> bool:
        """Make a frame of it and offer it; False when the agent wants no more."""
        frame = self._taking.frame(fed)
        newer_come = self._config.trigger == "continuous" and self._config.policy == "newest"
        if frame.problem is None or frame.problem.code not in _DAMAGE:
            self._damaged_since = None
        elif newer_come:
            if self._damaged_since is None:
                self._damaged_since = fed.grab.at
            if fed.grab.at - self._damaged_since < self._config.stall_s:
                _log.debug("camera %s: a frame is passed over: %s", self.name, frame.problem)
                return True
        return self._offer(frame, offer, answer)

    def _offer(self, frame: Frame, offer: Offer, answer: Future[str] | None) -> bool:
        if answer is not None:
            assert frame.result_id is not None
            with self._lock:
                self._answers[frame.key] = answer, frame.result_id
        if not offer(frame):
            if answer is not None:
                with self._lock:
                    self._answers.pop(frame.key, None)
                answer.set_exception(RetryError("the agent stops"))
            return False
        self._offered += 1
        self._health.count("camera_offered")
        return True

    def _forget(self) -> None:
        """Keys of frames that never come again need not be remembered."""
        now = time.monotonic()
        if now >= self._next_forget:
            self._next_forget = now + FORGET_S
            self._seen.forget_seen(self.name, lambda _key: False)
