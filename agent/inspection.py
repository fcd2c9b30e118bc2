"""The story of one image: from a frame to what the station says of it, and on into the ledger.

Invariants: every frame yields exactly one result, and only a frame that the model has judged can be OK; a source is
told to let go of an image only after its result is durable.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from agent.bundle.postprocess import decide
from agent.clock import Clock, iso_utc
from agent.errors import ImageError, RetryError
from agent.frame import Frame
from agent.health import Health
from agent.ledger import Entry, Ledger
from agent.logs import log
from agent.ports import Judgement, Model, Source, Stored
from agent.pulse import Pulse
from agent.result import Evaluation, ImageFacts, Reason, Result, Station, Timing, new_result_id

_GROUP = 16  #: frames that share one commit under load
_WAITING_PIXELS = 8_000_000  #: decoded and waiting, at most; one frame may be larger
_RETRY_S = 1.0  #: between attempts on a full disk
_log = log("inspection")


def inspect(frame: Frame, model: Model, station: Station | None, clock: Clock) -> Result:
    """Judge one frame. Never raises for what a frame contains: what cannot be inspected is NotDecidable."""
    started = clock.monotonic()
    label: str | None = None
    judgement: Judgement | None = None
    evaluation: Evaluation = "NotDecidable"
    try:
        if frame.picture is None:
            raise frame.problem or AssertionError("a frame has a picture or a problem")
        judgement = model.judge(frame.picture)
        label, evaluation, reasons = decide(judgement.probability, model.decision)
    except ImageError as problem:
        reasons = [Reason(problem.code, detail=problem.detail)]
    if frame.identity_unknown:
        reasons = [*reasons, Reason("identity_unknown")]
    created = clock.now()
    spent = frame.decode_ms + (clock.monotonic() - started) * 1e3
    return Result(
        result_id=frame.result_id or new_result_id(int(created.timestamp() * 1e3)),
        class_=label,
        probability=judgement.probability if judgement and label is not None else None,
        labels=list(model.decision.labels),
        evaluation=evaluation,
        reasons=reasons,
        station=station,
        part_id=frame.identity.part_id,
        job_id=frame.identity.job_id,
        weld_id=frame.identity.weld_id,
        frame=frame.identity.frame,
        image=ImageFacts(
            name=frame.name,
            sha256=frame.sha256,
            bytes=frame.bytes,
            width=frame.picture.width if frame.picture else None,
            height=frame.picture.height if frame.picture else None,
            source=frame.source,
        ),
        captured_at=iso_utc(frame.captured_at),
        captured_from=frame.captured_from,
        created_at=iso_utc(created),
        model=model.facts,
        timing_ms=Timing(
            decode=round(frame.decode_ms, 3),
            preprocess=round(judgement.preprocess_ms, 3) if judgement else 0.0,
            inference=round(judgement.inference_ms, 3) if judgement else 0.0,
            total=round(spent, 3),
        ),
        simulated=frame.simulated,
    )


class Intake:
    """The one bounded queue between sources and the inspector. Its size is the station's backpressure."""

    def __init__(self, size: int = 4) -> None:
        self._size, self._frames = size, deque[Frame]()
        self._changed = threading.Condition()
        self._paused = self._ended = False

    def offer(self, frame: Frame) -> bool:
        """``ports.Offer``: waits while the queue is full or the intake is paused; False once it has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or (not self._paused and self._fits(frame)))
            if self._ended:
                return False
            self._frames.append(frame)
            self._changed.notify_all()
            return True

    def _fits(self, frame: Frame) -> bool:
        """A few frames, and few pixels: a very large picture travels alone."""
        waiting = sum(map(_pixels, self._frames))
        return not self._frames or (len(self._frames) < self._size and waiting + _pixels(frame) <= _WAITING_PIXELS)

    def room(self, timeout_s: float) -> bool:
        """Wait until a frame would be taken at once, for a source whose images do not wait. False when it would not."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._ended and not self._paused and len(self._frames) < self._size, timeout_s
            )

    def take(self, most: int) -> list[Frame]:
        """Wait for a frame, then take what is there, at most ``most``. Empty: it has ended, and all were taken."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._frames)
            taken = [self._frames.popleft() for _ in range(min(most, len(self._frames)))]
            self._changed.notify_all()
            return taken

    def pause(self, paused: bool) -> None:
        """Hold the sources back (their images stay where they are), or let them go on."""
        with self._changed:
            self._paused = paused
            self._changed.notify_all()

    def is_open(self) -> bool:
        """False while paused."""
        return not self._paused

    def end(self) -> None:
        """No more frames: what was taken is still inspected, then the inspector returns."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def backlog(self) -> int:
        """Frames waiting."""
        return len(self._frames)


def _pixels(frame: Frame) -> int:
    return frame.picture.width * frame.picture.height if frame.picture else 0


class Inspector:
    """Takes frames, judges them, commits the results in groups, and lets the sources go of what is durable.

    Alone a frame is committed at once; under load those that came while the last group was committed share one sync.
    """

    def __init__(
        self, intake: Intake, model: Model, station: Station, ledger: Ledger, clock: Clock, health: Health
    ) -> None:
        self._intake, self._model, self._station = intake, model, station
        self._ledger, self._clock, self._health = ledger, clock, health
        self._give_up = threading.Event()
        self._sources: Mapping[str, Source] = {}
        self._onlookers: list[Callable[[Frame, Result], None]] = []
        self._listeners: list[Callable[[Sequence[Stored]], None]] = []
        self.inference_ms: deque[float] = deque(maxlen=1000)  #: the newest, for health's p50 and p99
        self.pulse = Pulse()

    def run(self, sources: Mapping[str, Source]) -> None:
        """Inspect until the intake ends. Runs in a thread of its own."""
        self._sources = sources
        while frames := self._intake.take(_GROUP):
            judged: list[Entry] = []
            while frames:  # a judged picture is let go at once, not after the commit
                frame = frames.pop(0)
                self.pulse.step("judging an image")
                judged.append(Entry(self._inspect(frame), frame.key, frame.source))
                del frame
            if not self._commit(judged):
                return
            self.pulse.rest()

    def show_to(self, onlooker: Callable[[Frame, Result], None]) -> None:
        """Call ``onlooker`` with every frame and its result, once that is judged. It must not wait, nor raise."""
        self._onlookers.append(onlooker)

    def announce_to(self, listener: Callable[[Sequence[Stored]], None]) -> None:
        """Call ``listener`` with every group of results, once they are durable. It must not wait, nor raise."""
        self._listeners.append(listener)

    def swap(self, model: Model) -> None:
        """Judge with ``model`` from the next frame on. From any thread."""
        self._model = model

    def give_up(self) -> None:
        """Stop waiting for a full disk: what is not committed stays with its source."""
        self._give_up.set()

    def _inspect(self, frame: Frame) -> Result:
        result = inspect(frame, self._model, self._station, self._clock)
        model = f"{result.model.name} {result.model.version} {result.model.variant}"
        self._health.count("inspected", source=frame.source, evaluation=result.evaluation, model=model)
        self._health.count("errors", int(frame.picture is None))
        self._health.count(f"evaluation_{result.evaluation}")
        if frame.picture is not None:
            self._health.count("judged")
            if result.evaluation == "NotDecidable":
                self._health.count("judged_undecided")
            if result.probability is None:
                self._health.count("judged_failed")
        for stage in ("decode", "preprocess", "inference", "total"):
            if spent_ms := getattr(result.timing_ms, stage):  # 0: it did not happen
                self._health.took(stage, spent_ms / 1e3)
        if result.evaluation == "NotDecidable":
            reason = result.reasons[0]
            self._health.count("not_decidable", reason=reason.code)
            why = reason.detail or (f"{reason.value:.3f}, limit {reason.limit}" if reason.value is not None else "")
            _log.warning("not_decidable: %s: %s %s", frame.name, reason.code, why)
        if result.probability is not None:
            self.inference_ms.append(result.timing_ms.inference)
        for onlooker in self._onlookers:
            onlooker(frame, result)
        return result

    def _commit(self, judged: Sequence[Entry]) -> bool:
        """Make a group durable, then release it. False when told to give up on a ledger that takes nothing."""
        while True:
            try:
                self.pulse.step("committing results to the ledger")
                stored = self._ledger.commit(judged)
                break
            except RetryError as error:
                self.pulse.rest()
                if self._health.raise_problem("ledger_full", str(error)):
                    _log.error("ledger_full: %s; inspection waits, images stay where they are; free some space", error)
                if self._give_up.wait(_RETRY_S):
                    return False
        self._health.over("ledger_full", "inspection goes on")
        for listener in self._listeners:
            listener(stored)
        for name, source in self._sources.items():
            keys = [entry.key for entry in judged if entry.source == name and entry.key is not None]
            if keys:
                self.pulse.step(f"letting go of images of {name}")
                source.release(keys)
        return True
