"""How long results and frames stay: by age, by size, and by the space that is left.

    by age    results.keep_days, once an hour: results and their files, once they are delivered, and as long as the
              clock may be believed (``belief``)
    by size   results.keep_gb: files and logs; the ledger likewise; frames by their own keep_gb
    by space  below results.min_free_mb and a margin: before inspection would have to wait

Invariants
- What a sink has still to deliver is never removed, however full the disk is.
- When space is short the least interesting goes first: frames and results that are OK, then NotDecidable, then NotOK
  and what a person has reviewed; of each the oldest. Removing needs no space that is not there: files are unlinked, the
  ledger has its reserve.
- Last of all the log of a day that is not over is cut into parts, and those that are delivered go.
- Of dead letters, those older than results.keep_dead_days go, and, when no history is left to make room, the oldest.
- State and results may be on separate disks: on each only what lies there is removed.
- Works in a thread of its own, in steps: neither an inspection nor the main thread waits for a slow disk.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from agent.app.belief import Belief
from agent.app.bundles.labels import Labels
from agent.app.places import free_mb
from agent.clock import Clock, iso_utc
from agent.config import ResultsConfig
from agent.delivery.json_files import JsonFiles
from agent.delivery.shedding import ResultsFolder
from agent.errors import RetryError, UsageError
from agent.health import Health
from agent.ledger import Ledger
from agent.ledger.pruning import Spare
from agent.logs import log
from agent.ports import Stored
from agent.result import Evaluation
from agent.sources.archive import Archive
from agent.sources.camera.store import Interesting

BY_AGE_S = 3600.0
BY_SIZE_S = 600.0
LOOK_S = 1.0  #: a statvfs, so that a fast camera does not fill the margin in between
_AGAIN_S = 60.0  #: after trouble, when nothing may go, or when the clock is not believed
_AFTER_CUT_S = 2.0
_TOLD_AGAIN_S = 86_400.0
_log = log("app")


class Reviewed:
    """What ``results.reviewed`` names; read anew when the file has changed. Without a file nothing was reviewed."""

    def __init__(self, config: ResultsConfig) -> None:
        self._file = Path(config.reviewed) if config.reviewed is not None else None
        self._stamp: tuple[int, int] | None = None
        self._labels: Labels | None = None

    def has(self, result_id: str, sha256: str | None, image: str) -> bool:
        """Whether a person has looked at this result; ``look`` has read the file before."""
        return self._labels is not None and self._labels.of(result_id, sha256, image) is not None

    def spare(self, one: Stored) -> bool:
        """The same of a result in the ledger."""
        if self._labels is None:
            return False
        sha256 = json.loads(one.body)["image"]["sha256"] if self._labels.by == "sha256" else None
        return self.has(one.result_id, sha256, one.image_name)

    def interesting(self, ledger: Ledger) -> Interesting:
        """Which frames are worth more than others, for a camera's store."""
        return lambda begin, end: ledger.interesting(begin, end, self.spare if self._file else None)

    def look(self) -> None:
        """Read the file if it has changed; what cannot be read changes nothing, and is said."""
        if self._file is None:
            return
        try:
            facts = self._file.stat()
            stamp = facts.st_mtime_ns, facts.st_size
            if stamp != self._stamp:
                self._stamp = stamp
                self._labels = Labels(self._file)
        except (OSError, UsageError) as error:
            _log.warning("reviewed_unreadable: results.reviewed: %s; as before", error)


class Frames(Protocol):
    """Saved frames of a camera."""

    folder: Path

    def shed(self) -> int:
        """Remove a step of what is least interesting; how many files went, 0 when nothing may go."""
        ...


@dataclass
class _Disk:
    """One disk under watch: once short, until there is room again."""

    key: str  #: of the configuration
    folder: Path
    short: bool = False
    over: bool = False  #: beyond ``keep_gb``
    stuck: bool = False  #: nothing is left there that may go
    not_before: float = float("-inf")  #: monotonic; until then it is not tried again

    @property
    def wanting(self) -> bool:
        """Whether room is to be made."""
        return self.short or self.over


class Retention:
    """``start`` once, ``stop`` once; or call ``tend`` yourself."""

    def __init__(
        self,
        config: ResultsConfig,
        state: Path,
        ledger: Ledger,
        files: JsonFiles | None,
        frames: Sequence[Frames],
        clock: Clock,
        health: Health,
        reviewed: Reviewed,
        belief: Belief,
        archives: Sequence[Archive] = (),
    ) -> None:
        self._reviewed, self._belief, self._archives = reviewed, belief, archives
        self._config, self._ledger, self._files, self._frames = config, ledger, files, frames
        self._clock, self._health = clock, health
        cut = files.cut_log if files is not None else None
        self._folder = ResultsFolder(Path(config.directory), self._delivered, reviewed.has, ledger.ledger_id, cut)
        self._results, self._state = _Disk("results.directory", Path(config.directory)), _Disk("state", state)
        self._next_by_age = self._next_by_size = self._next_told = self._next_dead_told = float("-inf")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="retention", daemon=True)

    def start(self) -> None:
        """Begin, in a thread of its own; archives each in theirs, as they may be on shares that hang."""
        self._thread.start()
        for archive in self._archives:
            archive.start()

    def stop(self) -> None:
        """End after the step that is under way."""
        self._stop.set()
        for archive in self._archives:
            archive.stop()
        if self._thread.ident is not None:
            self._thread.join(5.0)

    def _run(self) -> None:
        told = ""
        while not self._stop.is_set():
            pause = LOOK_S
            try:
                if self.tend():
                    continue
            except Exception as error:  # noqa: BLE001  # the thread's last line: said, and tried again
                if self._stop.is_set():
                    return
                if repr(error) != told:  # the same again is no news
                    told, expected = repr(error), isinstance(error, (RetryError, OSError))
                    cause = None if expected else error
                    _log.warning("retention_delayed: %s; tried again and again", error, exc_info=cause)
                pause = _AGAIN_S
            self._stop.wait(pause)

    def tend(self) -> bool:
        """One bounded step of what is to do now. True when there is more: call again at once.

        ``RetryError``, ``OSError``: a disk in trouble.
        """
        now = self._clock.monotonic()
        if now >= self._next_by_age:
            believed = self._belief.look()
            self._next_by_age = now + (BY_AGE_S if believed else _AGAIN_S)
            self._reviewed.look()
            if believed and self._by_age():
                self._next_by_age = now
                return True
        self._look(now)
        return self._make_room(now)

    # --- by age ---

    def _by_age(self) -> int:
        """Remove what is older than ``keep_days``; how many went."""
        oldest = self._clock.now() - timedelta(days=self._config.keep_days)
        removed = self._ledger.prune(oldest) + self._dead_by_age()
        if self._files is not None:
            since = self._ledger.oldest_undelivered_anywhere()
            removed += self._files.prune(oldest, since, held=self._ledger.holds_day)
        return removed

    def _dead_by_age(self) -> int:
        days = self._config.keep_dead_days
        went = self._ledger.prune_dead(self._clock.now() - timedelta(days=days))
        if went:
            self._health.count("retention_removed", went, kind="dead_letters")
            detail = f"{went} are older than results.keep_dead_days ({days})"
            _log.warning("dead_letters_removed: %s; look at them earlier: weldwatch outbox status", detail)
        return went

    # --- by size and by space ---

    def _look(self, now: float) -> None:
        """Note which disk is short, and what has grown over its limit."""
        for disk in (self._results, self._state):
            begin, enough = self._margins()
            free = free_mb(disk.folder)
            if enough and free is not None:
                disk.short = free < (enough if disk.short else begin)
        limit = self._config.keep_gb
        if limit is None or (now < self._next_by_size and not (self._results.over or self._state.over)):
            return
        self._next_by_size = now + BY_SIZE_S
        for disk, size in ((self._results, self._folder.size), (self._state, self._ledger.used_bytes)):
            disk.over = size() > limit * 1e9 * (0.95 if disk.over else 1)

    def _margins(self) -> tuple[int, int]:
        """Below the first (MB free) removing begins, at the second it ends. Inspection waits further down."""
        floor = self._config.min_free_mb
        margin = max(16, floor // 4)
        return (floor + margin, floor + 2 * margin) if floor else (0, 0)

    def _make_room(self, now: float) -> bool:
        # What pruning left free in the ledger costs no history; beyond keep_gb it does not count.
        if self._state.short and self._ledger.give_back():
            return True
        went = False
        for disk, shed in ((self._results, self._shed_results), (self._state, self._shed_ledger)):
            disk.stuck = disk.stuck and disk.wanting
            if disk.wanting and now >= disk.not_before:
                disk.stuck = not shed(now)
                if disk.stuck:
                    disk.not_before = now + _AGAIN_S
                went |= not disk.stuck
        if went:
            self._tell(now)
        self._tell_exhausted()
        return went

    def _tell_exhausted(self) -> None:
        """A disk is exhausted when nothing may go there, neither results nor, where it holds both, ledger."""
        wanting = [disk for disk in (self._results, self._state) if disk.wanting]
        if not wanting:  # not as soon as some more may go: where little is delivered, that comes and goes each minute
            self._health.over("retention_exhausted")
            return
        if len({disk.folder.stat().st_dev for disk in wanting}) == 1 and not all(disk.stuck for disk in wanting):
            return
        stuck = " and of ".join(f"{disk.key} ({disk.folder})" for disk in wanting if disk.stuck)
        if not stuck:
            return
        waiting = self._ledger.last_sequence - self._ledger.delivered_up_to()
        detail = (
            f"space is short on the disk of {stuck}, and all that may be removed there is gone; {waiting} results are "
            "not delivered everywhere and stay, the rest is not ours"
        )
        if self._health.raise_problem("retention_exhausted", detail):
            _log.warning("retention_exhausted: %s; deliver them, or free some space", detail)

    def _shed_results(self, now: float) -> bool:
        device = self._results.folder.stat().st_dev
        for frames in self._frames if self._results.short else ():  # their size has its own limit
            if frames.folder.is_dir() and frames.folder.stat().st_dev == device and frames.shed():
                return True
        since = self._ledger.oldest_undelivered_anywhere()
        today = iso_utc(self._clock.now())[:10]
        self._ledger.save_cursors()  # what is gone from a day's log must not be written there again after a kill
        shed = self._folder.shed(min(today, iso_utc(since)[:10]) if since else today)
        if shed is None:
            return False
        if shed.files:
            self._health.count("retention_removed", shed.files, kind=shed.kind)
        else:  # today's log was cut: what was written to it just now is still on its way to the other sinks
            self._results.not_before = now + _AFTER_CUT_S
        return True

    def _shed_ledger(self, now: float) -> bool:
        spared: list[tuple[Evaluation, Spare | None]] = [
            ("OK", self._reviewed.spare),
            ("NotDecidable", self._reviewed.spare),
        ]
        for evaluation, spare in (*spared, ("NotOK", None), ("OK", None), ("NotDecidable", None)):
            if went := self._ledger.shed(evaluation, spare):
                self._health.count("retention_removed", went, kind="ledger")
                return True
        if went := self._ledger.shed_dead():
            self._health.count("retention_removed", went, kind="dead_letters")
            if now >= self._next_dead_told:
                self._next_dead_told = now + _TOLD_AGAIN_S
                _log.warning(
                    "dead_letters_removed: space is short, and no history is left: the oldest go; health counts"
                )
            return True
        return False

    def _delivered(self, ledger_id: str, sequence: int) -> bool:
        """Every sink is done with it; one of a ledger that was set aside is nobody's any more."""
        return ledger_id != self._ledger.ledger_id or sequence <= self._ledger.delivered_up_to()

    def _tell(self, now: float) -> None:
        """Once a day: history is shorter than was asked for."""
        if now >= self._next_told:
            self._next_told = now + _TOLD_AGAIN_S
            _log.warning(
                "retention_early: space is short: results are removed before results.keep_days (%d), OK first, nothing "
                "undelivered; a larger disk or a smaller keep_days would hold them evenly",
                self._config.keep_days,
            )
