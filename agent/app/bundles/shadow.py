"""A candidate that judges the same frames beside the active bundle, and never in its way.

    inspector ─(frame, result)─▶ bounded queue ─▶ candidate ─▶ results/shadow/YYYY-MM-DD.jsonl ─▶ …/shadow (QoS 0)

Invariants
- The active bundle has judged before the candidate is asked; the inspector never waits. What does not fit into the
  queue is skipped and counted, in ``shadow_skipped`` and in the next line.
- A line is the candidate's result with the id of the active one, so that both can be joined, and with the active
  verdict in it. It has no ``sequence``: it is evidence for a person, no promise. It is not synced, and a kill may cost
  the last lines; a torn one is ended before the next is written.
- Whatever happens to the candidate ends the shadow, not the line.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from agent.clock import Before, Clock, days_ago
from agent.config import ResultsConfig
from agent.frame import Frame
from agent.health import Health
from agent.inspection import inspect
from agent.logs import log
from agent.model.loading import Loaded
from agent.result import Evaluation, ModelFacts, Result, Timing

SCHEMA = "weldwatch.shadow/1"
FOLDER = "shadow"  #: below results.directory
_WAITING, _WAITING_PIXELS = 4, 8_000_000
_NICE = 10
_TRIED_AGAIN_S = 10.0  #: after a disk that took no line
_log = log("shadow")

Publish = Callable[[Sequence[bytes]], None]


class Verdict(msgspec.Struct, frozen=True, rename={"class_": "class"}):
    """What the active bundle said of the frame."""

    evaluation: Evaluation
    class_: str | None
    probability: list[float] | None
    model: ModelFacts
    timing_ms: Timing


class Shadowed(Result, frozen=True, kw_only=True):
    """The candidate's result. ``skipped``: frames since the line before that it was too slow for."""

    schema: str = SCHEMA
    active: Verdict
    skipped: int


class Shadow:
    """``use`` a candidate, ``see`` frames; ``start`` once, ``stop`` once."""

    def __init__(
        self,
        results: ResultsConfig,
        health: Health,
        clock: Clock,
        publish: Publish | None = None,
        before: Before | None = None,
    ) -> None:
        """``before`` tells which of its evidence is old; by default the clock does."""
        self.loaded: Loaded | None = None
        self._log = ShadowLog(Path(results.directory) / FOLDER, results.keep_days, before or days_ago(clock))
        self._health, self._clock = health, clock
        self._publish = publish
        self._frames: deque[tuple[Frame, Result]] = deque()
        self._pixels = self._skipped = 0
        self._changed = threading.Condition()
        self._ended = False
        self._quiet_until: float | None = None
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)

    def start(self) -> None:
        """Begin to judge."""
        self._thread.start()

    def stop(self) -> None:
        """Judge no more; what waits is let go."""
        with self._changed:
            self._ended = True
            self._frames.clear()
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()
        self._log.close()

    def use(self, loaded: Loaded | None) -> None:
        """Judge with this candidate from now on; None: with none."""
        with self._changed:
            before, self.loaded = self.loaded, loaded
            self._frames.clear()
            self._pixels = self._skipped = 0
        if loaded is not None:
            _log.info("%s (%s) judges beside the active bundle", loaded.name, loaded.model.facts.variant)
        elif before is not None:
            _log.info("%s no longer judges beside the active bundle", before.name)

    def see(self, frame: Frame, result: Result) -> None:
        """A frame, and what the active bundle said of it. Never waits."""
        if self.loaded is None or frame.picture is None:
            return
        pixels = frame.picture.width * frame.picture.height
        with self._changed:
            full = len(self._frames) >= _WAITING or self._pixels + pixels > _WAITING_PIXELS
            if full and self._frames:
                self._skipped += 1
                self._health.count("shadow_skipped")
                return
            self._frames.append((frame, result))
            self._pixels += pixels
            self._changed.notify_all()

    # -- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        with contextlib.suppress(PermissionError):  # a service may be denied it; then it works as the rest does
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)  # Linux: of this thread alone
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._frames)
                if self._ended:
                    return
                frame, result = self._frames.popleft()
                self._pixels -= frame.picture.width * frame.picture.height if frame.picture else 0
                loaded, skipped, self._skipped = self.loaded, self._skipped, 0
            if loaded is not None:
                self._judge(frame, result, loaded, skipped)
            del frame

    def _judge(self, frame: Frame, result: Result, loaded: Loaded, skipped: int) -> None:
        try:
            body = msgspec.json.encode(
                _beside(inspect(frame, loaded.model, result.station, self._clock), result, skipped)
            )
        except Exception as error:  # noqa: BLE001  # a candidate's fault: logged whole, the candidate is let go
            self._health.raise_problem("shadow_refused", f"{loaded.name}: {error}")
            _log.exception("shadow_refused: %s failed on %s; it judges no more", loaded.name, frame.name)
            self.use(None)
            return
        self._health.count("shadow_judged")
        self._write(body)
        if self._publish is not None:
            self._publish([body])

    def _write(self, body: bytes) -> None:
        now = self._clock.monotonic()
        if self._quiet_until is not None and now < self._quiet_until:
            self._health.count("shadow_unwritten")
            return
        try:
            self._log.append(body, self._clock)
            self._quiet_until = None
        except OSError as error:
            if self._quiet_until is None:
                _log.warning(
                    "shadow_unwritten: %s: %s; lines of the shadow are left out", self._log.folder, error.strerror
                )
            self._quiet_until = now + _TRIED_AGAIN_S
            self._health.count("shadow_unwritten")


def _beside(candidate: Result, active: Result, skipped: int) -> Shadowed:
    fields = {name: getattr(candidate, name) for name in Result.__struct_fields__}
    said = Verdict(active.evaluation, active.class_, active.probability, active.model, active.timing_ms)
    fields.update(schema=SCHEMA, result_id=active.result_id, active=said, skipped=skipped)
    return Shadowed(**fields)


class ShadowLog:
    """``YYYY-MM-DD.jsonl``, a line a frame; files older than ``keep_days`` go when a new day begins, unless nobody
    can tell which are (``before``).
    """

    def __init__(self, folder: Path, keep_days: int, before: Before) -> None:
        self.folder, self._keep_days, self._before = folder, keep_days, before
        self._day, self._handle = "", -1

    def append(self, body: bytes, clock: Clock) -> None:
        """One line, at once visible whole. ``OSError``: it is left out."""
        day = clock.now().strftime("%Y-%m-%d")
        if day != self._day:
            self.close()
            self.folder.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(
                self.folder / f"{day}.jsonl", os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644
            )
            self._day = day
            if (oldest := self._before(self._keep_days)) is not None:
                self._prune(oldest.strftime("%Y-%m-%d"))
        size = os.fstat(self._handle).st_size
        torn = size > 0 and os.pread(self._handle, 1, size - 1) != b"\n"
        os.write(self._handle, (b"\n" if torn else b"") + body + b"\n")

    def _prune(self, oldest: str) -> None:
        for file in self.folder.glob("????-??-??.jsonl"):
            if file.stem < oldest:
                file.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file."""
        if self._handle >= 0:
            os.close(self._handle)
        self._day, self._handle = "", -1
