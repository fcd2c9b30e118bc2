"""Inspected frames on disk, so that every result can be looked at.

    <save>/2026-11-22/10/torch_20261122T102205123Z.png      day and hour of capture, UTC

Invariants
- A file appears under its name whole, and is durable before its result can be: written under a dot name, renamed, then
  synced once, which on Linux's file systems takes the new name along (it is newer than the file's own data).
- What is saved is what is judged: pixels as lossless PNG; a JPEG that the camera sent byte for byte; one that we make
  is decoded again.
- Never more than ``keep_gb`` and ``keep_days``, whichever is less, kept by a thread of its own. What is too old goes by
  whole hours. What is too much goes in two rounds, each from the oldest hour on: first the frames that nobody will ask
  for (``Interesting`` tells), then the others. Only what this store has named is ever removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import threading
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from agent.clock import Before, Clock, compact_utc, days_ago
from agent.errors import RetryError
from agent.health import Health
from agent.image import Picture, decode
from agent.logs import log

_log = log("sources")

TIDY_S = 600.0
AGAIN_S = 60.0  #: after trouble
JPEG_QUALITY = 95
_DAY, _HOUR = re.compile(r"\d{4}-\d{2}-\d{2}"), re.compile(r"\d{2}")


#: Names of the frames from a time to another that are worth more than others: not OK, or not delivered yet.
Interesting = Callable[[datetime, datetime], Collection[str]]


@dataclass(frozen=True)
class Saved:
    """A file of the store."""

    name: str  #: relative to the store, with '/'
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Keep:
    """How long files stay."""

    days: int
    bytes: int


class FrameStore:
    """Saves frames for one source. ``save`` is called from one thread."""

    def __init__(
        self,
        folder: Path,
        source: str,
        form: str,
        keep: Keep,
        clock: Clock,
        health: Health,
        interesting: Interesting = lambda _begin, _end: (),
        before: Before | None = None,
    ) -> None:
        """``before`` tells what is old; by default the clock does."""
        self.folder, self._interesting, self._before = folder, interesting, before or days_ago(clock)
        self._thinned: set[str] = set()  #: hours that hold interesting frames only
        self._tidying = threading.Lock()  #: one at a time removes
        self._stem, self._form, self._keep = quote(source, safe=" "), form, keep
        self._clock, self._health = clock, health
        self._lock = threading.Lock()  # guards the sizes, and what is under way
        self._under_way: tuple[str, ...] = ()  #: the frame that is being saved, by its names: no housekeeping takes it
        self._sizes: dict[str, int] = {}  #: bytes by "day/hour"
        self._measured = False  #: whether they hold what lay there from before
        self._fresh: set[str] = set()  #: saved until then, so counted already
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to keep house: now, and every ``TIDY_S``."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._keep_house, name=f"frames {self._stem}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the housekeeping."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(1.0)

    def encode(self, picture: Picture) -> tuple[bytes, str, Picture]:
        """Encoded bytes, their suffix, and the picture that they decode to."""
        buffer = io.BytesIO()
        if self._form == "jpeg":
            picture.image.save(buffer, "JPEG", quality=JPEG_QUALITY)
            return buffer.getvalue(), "jpg", decode(buffer.getvalue())
        # Run lengths only: on camera noise as small as a search for repeats, in two thirds of the time.
        picture.image.save(buffer, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
        return buffer.getvalue(), "png", picture

    def stem(self, taken: datetime) -> str:
        """The name of a frame of this time, without number and suffix."""
        return f"{taken:%Y-%m-%d/%H}/{self._stem}_{compact_utc(taken)}"

    def save(self, data: bytes, suffix: str, taken: datetime) -> Saved:
        """Write a file; durable when this returns. ``OSError`` where it cannot be."""
        hour, _, stem = self.stem(taken).rpartition("/")
        folder = self.folder / hour
        name, number = f"{stem}.{suffix}", 0
        while (folder / name).exists():
            number += 1
            name = f"{stem}_{number}.{suffix}"
        hidden = folder / f".{name}.part"
        try:
            with self._begin(hour, hidden, name) as file:
                file.write(data)
                file.flush()
                hidden.rename(folder / name)
                os.fsync(file.fileno())
        except OSError:
            for rest in (hidden, folder / name):
                with contextlib.suppress(OSError):  # what stays all the same, the housekeeping removes in its time
                    rest.unlink(missing_ok=True)
            self._under_way = ()
            raise
        with self._lock:
            self._under_way = ()
            self._sizes[hour] = self._sizes.get(hour, 0) + len(data)
            full = sum(self._sizes.values()) > self._keep.bytes
        if full:
            self._wake.set()
        return Saved(f"{hour}/{name}", hashlib.sha256(data).hexdigest(), len(data))

    def _begin(self, hour: str, hidden: Path, name: str) -> BinaryIO:
        """Make the file in its folder, of which no housekeeping takes anything away in between."""
        with self._lock:
            self._under_way = f"{hour}/{hidden.name}", f"{hour}/{name}"
            if not self._measured:
                self._fresh.update(self._under_way)
            hidden.parent.mkdir(parents=True, exist_ok=True)
            return hidden.open("wb")

    # -- housekeeping ------------------------------------------------------------------------------------------------

    def _keep_house(self) -> None:
        problem = f"frames_not_tidied:{self._stem}"
        while not self._stop.is_set():
            self._wake.clear()
            try:
                self._measure()
                self.tidy()
            except (OSError, RetryError) as error:  # the disk's own limit (results.min_free_mb) holds meanwhile
                if self._health.raise_problem(problem, str(error)):
                    _log.error("frames_not_tidied: %s: %s; old frames stay, tried again", self.folder, error)
                self._stop.wait(AGAIN_S)  # a store that is full wakes us with every frame
                continue
            self._health.over(problem)
            self._wake.wait(TIDY_S)

    def _measure(self) -> None:
        """Add up what lies there from before, once."""
        if self._measured:
            return
        with self._tidying:
            sizes: dict[str, int] = {}
            for hour, folder in self._hours():
                with os.scandir(folder) as entries:
                    ours = [entry for entry in entries if self._is_ours(entry.name)]
                with self._lock:
                    fresh = self._fresh.copy()
                sizes[hour] = sum(_bytes(entry) for entry in ours if f"{hour}/{entry.name}" not in fresh)
            with self._lock:
                for hour, size in sizes.items():
                    self._sizes[hour] = self._sizes.get(hour, 0) + size
                self._measured = True
                self._fresh.clear()

    def _hours(self) -> Iterator[tuple[str, Path]]:
        """Folders of the store, the oldest first."""
        if not self.folder.is_dir():
            return
        for day in sorted(entry for entry in self.folder.iterdir() if _DAY.fullmatch(entry.name)):
            if day.is_dir() and not day.is_symlink():
                for hour in sorted(entry for entry in day.iterdir() if _HOUR.fullmatch(entry.name)):
                    if hour.is_dir() and not hour.is_symlink():
                        yield f"{day.name}/{hour.name}", hour

    def _is_ours(self, name: str) -> bool:
        return name.startswith((f"{self._stem}_", f".{self._stem}_"))

    def tidy(self) -> None:
        """Remove until both limits hold. The running hour stays."""
        oldest = self._before(self._keep.days)
        with self._tidying:
            for hour, folder in self._hours() if oldest is not None else ():
                if hour >= f"{oldest:%Y-%m-%d/%H}":
                    break
                self._remove(hour, folder)
        while self._too_much() and self.shed():
            pass

    def _too_much(self) -> bool:
        with self._lock:
            return sum(self._sizes.values()) > self._keep.bytes

    def shed(self) -> int:
        """Remove what is least worth: of the oldest hour that has such, the frames nobody will ask for; when none has
        any more, the whole oldest hour. The running hour stays. How many files went; 0 when nothing may go.
        """
        running = f"{self._clock.now():%Y-%m-%d/%H}"
        with self._tidying:
            over = [(hour, folder) for hour, folder in self._hours() if hour < running]
            self._thinned.intersection_update(hour for hour, _ in over)
            for hour, folder in over:
                if hour not in self._thinned:
                    begin = datetime.strptime(hour, "%Y-%m-%d/%H").replace(tzinfo=timezone.utc)
                    worth = self._interesting(begin, begin + timedelta(hours=1))
                    self._thinned.add(hour)
                    if went := self._remove(hour, folder, worth):
                        return went
            return next((went for hour, folder in over if (went := self._remove(hour, folder))), 0)

    def _remove(self, hour: str, folder: Path, but: Collection[str] = ()) -> int:
        """The frames of an hour, ``but`` these (names relative to the store); how many went."""
        try:
            with os.scandir(folder) as entries:
                ours = [entry for entry in entries if self._is_ours(entry.name)]
        except FileNotFoundError:  # an empty hour that was forgotten a moment ago
            return 0
        with self._lock:
            kept = {*but, *self._under_way}
        going = [entry for entry in ours if f"{hour}/{entry.name}" not in kept]
        went = gone = 0
        for entry in going:
            size = _bytes(entry)
            with contextlib.suppress(FileNotFoundError):
                Path(entry.path).unlink()
                went, gone = went + 1, gone + size
        with self._lock:  # a frame that was saved meanwhile goes on counting
            self._sizes[hour] = max(0, self._sizes.get(hour, 0) - gone)
        self._health.count("frames_removed", went)
        if len(going) == len(ours):
            self._forget(hour, folder)
        return went

    def _forget(self, hour: str, folder: Path) -> None:
        """Remove the folders of an hour that are empty; where somebody else's file lies, they stay."""
        with self._lock, contextlib.suppress(OSError):
            folder.rmdir()
            self._sizes.pop(hour, None)
            folder.parent.rmdir()


def _bytes(entry: os.DirEntry[str]) -> int:
    """0 for one that is gone meanwhile: the frame that was being saved has its name by now."""
    try:
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0
