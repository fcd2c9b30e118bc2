"""The current job: what the images that arrive now belong to, as the station was told, and since when.

    state/jobs.jsonl   {"at": "2026-11-22T10:22:05.123Z", "source": null, "part_id": "A17", "job_id": "J9", …}

A line a change, appended; ``source`` null is every source. Three ids of null clear the job.

Invariants
- An image belongs to the job that was current when it arrived, however late it is inspected: every change is kept with
  its time on the station's clock, ``KEEP`` of them. Of what arrived before them all the job is unknown, not guessed.
- A change is on the disk, synced, before it counts and before it is answered; what a kill tore off never counted.
- What is on the disk when a change is asked for has the job before, what comes after its answer has the new one: the
  answer waits for the tick of the kernel's coarse clock, which files are stamped with and which lags by some ms.
- The order of changes is the order of lines. Where the clock was set back, changes from the future are taken as made
  now: whatever arrives from now on has the newest job. Where it was set forward, nothing has to be done.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from agent.app.commands import RefusedError
from agent.clock import Clock, iso_utc, parse_iso
from agent.errors import UsageError
from agent.frame import Identity
from agent.logs import log

FILE = "jobs.jsonl"
KEEP = 10_000  #: changes: at one every ten seconds a day's
_TICK_S = 0.1  #: the longest to wait for the kernel's clock of files; its ticks are 1 to 10 ms apart
_COARSE = 5  #: Linux's CLOCK_REALTIME_COARSE, which stamps files; Python has no name for it
_SET_BACK = timedelta(seconds=1)  #: a clock that goes back by less is being steered, not set
_log = log("jobs")


class _Line(msgspec.Struct, frozen=True):
    """A line of the file."""

    at: str
    source: str | None
    part_id: str | None
    job_id: str | None
    weld_id: str | None


@dataclass
class _Change:
    at: datetime
    source: str | None
    job: Identity

    def concerns(self, source: str) -> bool:
        return self.source is None or self.source == source

    def line(self) -> bytes:
        ids = {"part_id": self.job.part_id, "job_id": self.job.job_id, "weld_id": self.job.weld_id}
        return msgspec.json.encode(_Line(iso_utc(self.at), self.source, **ids)) + b"\n"


class Jobs:
    """Shared by the sources, which ask, and the commands' worker, which sets."""

    def __init__(
        self, path: Path, sources: Collection[str], clock: Clock, stamped_from: Callable[[datetime], None]
    ) -> None:
        self._path, self._sources, self._clock = path, tuple(sources), clock
        self._stamped_from = stamped_from
        self._lock = threading.Lock()  # guards the two below
        self._changes: list[_Change] = []  #: oldest first, their times never falling, without a hole
        self._current: dict[str, _Change] = {}  #: the newest of each source

    @classmethod
    def open(
        cls,
        state: Path,
        sources: Collection[str],
        clock: Clock,
        stamped_from: Callable[[datetime], None] | None = None,
    ) -> Jobs:
        """With what the state folder remembers. ``UsageError`` where it cannot be read or written.

        ``stamped_from`` waits until files written from then on bear no time before the one given.
        """
        jobs = cls(state / FILE, sources, clock, stamped_from or _stamped_from)
        try:
            jobs._load()
        except OSError as error:
            raise UsageError(f"state: {jobs._path}: {error.strerror}; make it writable for this user") from None
        return jobs

    def at(self, source: str, moment: datetime) -> Identity:
        """The job of an image of ``source`` that arrived at ``moment`` (aware); all None where there is none."""
        with self._lock:
            self._mind_the_clock(self._clock.now())
            newest = self._current.get(source)
            if newest is None:
                return Identity()
            if newest.at <= moment:
                return newest.job
            for change in reversed(self._changes):
                if change.at <= moment and change.concerns(source):
                    return change.job
            return Identity()

    def current(self, source: str) -> dict[str, str | None] | None:
        """For status: the ids of the job and ``since``; None while there is none."""
        with self._lock:
            newest = self._current.get(source)
        if newest is None or newest.job == Identity():
            return None
        job = newest.job
        ids = {"part_id": job.part_id, "job_id": job.job_id, "weld_id": job.weld_id}
        return {**ids, "since": iso_utc(newest.at)}

    def set(self, source: str | None, job: Identity) -> None:
        """From now on images of ``source`` (None: of all) belong to ``job``. The same again changes nothing.

        ``RefusedError`` for a source that is none, and where the change cannot be kept: the job before goes on.
        """
        if source is not None and source not in self._sources:
            raise RefusedError(f"{source!r} is no source of this station; sources are {', '.join(self._sources)}")
        now = _whole_ms(self._clock.now())
        change = _Change(now, source, job)
        with self._lock:
            self._mind_the_clock(now)
            concerned = [self._current.get(name) for name in self._sources if change.concerns(name)]
            if all(before is not None and before.job == job for before in concerned):
                return
            if self._changes:
                change.at = max(now, self._changes[-1].at)
            try:
                self._append(change.line())
            except OSError as error:
                why = f"{self._path}: {error.strerror}"
                raise RefusedError(f"the job cannot be kept ({why}); the one before goes on") from None
            self._take(change)
            if len(self._changes) > 2 * KEEP:
                with contextlib.suppress(OSError):  # the long file is as good; the next change tries again
                    self._compact()
        self._stamped_from(change.at)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _take(self, change: _Change) -> None:
        self._changes.append(change)
        self._current.update({name: change for name in self._sources if change.concerns(name)})

    def _mind_the_clock(self, now: datetime) -> None:
        """Changes from the future were made before the clock was set back: see the invariants."""
        if not self._changes or self._changes[-1].at <= now + _SET_BACK:
            return
        self._not_later_than(now)
        with contextlib.suppress(OSError):  # a restart then takes the moment of the next change for that of the setting
            self._compact()
        _log.warning(
            "clock_set_back: the clock was set back by a second or more; images that arrive from now on have the "
            "newest job, those that wait from before may get a later one than theirs; look at its time service"
        )

    def _not_later_than(self, moment: datetime) -> None:
        for change in reversed(self._changes):
            if change.at <= moment:
                return
            change.at = moment

    def _append(self, line: bytes) -> None:
        is_new = not self._path.exists()
        with self._path.open("ab", buffering=0) as file:
            size = file.tell()
            try:
                if file.write(line) != len(line):
                    raise OSError(28, "No space left on device")
                os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):  # what stays is a torn line, which the next start passes over
                    file.truncate(size)
                raise
        if is_new:
            _sync_folder(self._path.parent)

    def _load(self) -> None:
        if not self._path.exists():
            return
        lines = self._path.read_bytes().splitlines(keepends=True)
        torn = 0
        for line in lines:
            try:
                one = msgspec.json.decode(line, type=_Line)
                change = _Change(parse_iso(one.at), one.source, Identity(one.part_id, one.job_id, one.weld_id))
            except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
                torn += 1
                continue
            self._not_later_than(change.at)
            self._take(change)
        if torn:
            _log.warning("jobs_damaged: %s: %d damaged lines are passed over", self._path, torn)
        if torn or len(lines) > KEEP or not lines[-1:] or not lines[-1].endswith(b"\n"):
            self._compact()

    def _compact(self) -> None:
        """Keep ``KEEP`` changes, and of each source the newest, under its own name: nothing else is known of before."""
        kept = self._changes[-KEEP:]
        carried = [
            _Change(change.at, name, change.job)
            for name, change in self._current.items()
            if all(change is not one for one in kept)
        ]
        self._write(sorted(carried, key=lambda change: change.at) + kept)
        self._changes = kept

    def _write(self, changes: Iterable[_Change]) -> None:
        part = self._path.with_name(f".{FILE}.part")
        with part.open("wb") as file:
            file.writelines(change.line() for change in changes)
            file.flush()
            os.fsync(file.fileno())
        part.rename(self._path)
        _sync_folder(self._path.parent)


def _whole_ms(moment: datetime) -> datetime:
    """Rounded up to what the file can say: an image from before must not come after it once it was read again."""
    return moment + timedelta(microseconds=-moment.microsecond % 1000)


def _stamped_from(moment: datetime) -> None:
    """Wait for the clock of files to reach ``moment``: one tick, unless the clock is being set meanwhile."""
    until = time.monotonic() + _TICK_S
    while time.clock_gettime(_COARSE) < moment.timestamp() and time.monotonic() < until:
        time.sleep(0.001)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
