"""How long images stay in the archive of a folder source: by age, by size, and by the space that is left.

    by age    archive_keep_days: what lies there for longer
    by size   above archive_keep_gb
    by space  the archive's disk, before results have to go (``agent.app.retention``) and inspection would have to wait

Invariants
- Without a limit nothing is ever removed; nor, whatever the limit, an image whose result has still to be delivered.
- By size and by space the oldest goes first, in two rounds: first the images that nobody will ask for (``Interesting``
  tells), then the others.
- By age nothing goes while the clock is not believed: one that jumped ahead must not empty the archive.
- A thread of its own for each archive: one that hangs (a share whose server is gone) holds up nothing else. A walk in
  ten minutes, none more often than a twentieth of the time, however many files lie there.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from itertools import groupby
from logging import ERROR, WARNING

from agent.clock import Before, Clock
from agent.config import FolderConfig
from agent.errors import RetryError
from agent.frame import readable_name
from agent.health import Health
from agent.logs import log
from agent.sources.archived import Image, Survey, remove, survey
from agent.sources.camera.store import Interesting
from agent.sources.scan import Patterns

_log = log("sources")

TIDY_S = 600.0
LOOK_S = 5.0  #: a statvfs
AGAIN_S = 60.0  #: after trouble, or where space is short all the same
SHARE = 20  #: a walk may take a twentieth of the time
TRIES = 20  #: failures that end a round
_LATE = timedelta(hours=1)  #: from a result to the move of its image, where all is well
_TOLD_AGAIN_S = 86_400.0
_HOUR_NS = 3600 * 10**9
_NUMBER = re.compile(rb"_\d+(?=\.[^./]*\Z)")  #: that a taken name got
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Known:
    """What others know, and an archive has to ask."""

    open_since: Callable[[], datetime | None]  #: what came from then on may have a result to deliver; None: nothing has
    interesting: Interesting
    before: Before  #: what lies there for so many days


class Archive:
    """``start`` once, ``stop`` once; or call ``tend`` yourself. For a source with a limit."""

    def __init__(self, config: FolderConfig, min_free_mb: int, known: Known, clock: Clock, health: Health) -> None:
        self._source, self._known, self._clock, self._health = config.name, known, clock, health
        self.folder = os.path.abspath(config.archive or "")
        self._root, self._patterns = os.fsencode(self.folder), Patterns(config.patterns)
        self._days, self._gb, self._floor_mb = config.archive_keep_days, config.archive_keep_gb, min_free_mb
        self._asked_up_to: Image | None = None  #: up to here only images of interest are left
        self._over = False  #: beyond archive_keep_gb, until there is room again
        self._next = self._not_before = self._next_told = float("-inf")
        self._problem = f"archive_not_tidied:{config.name}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"archive {config.name}", daemon=True)

    def start(self) -> None:
        """Begin to keep house."""
        self._thread.start()

    def stop(self) -> None:
        """End after the file that is under way. A thread that hangs is left behind, and ends with the process."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(1.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if self.tend():
                    continue
            except Exception as error:  # noqa: BLE001  # the thread's last line: said, and tried again
                if self._stop.is_set():
                    return
                self._not_before = self._clock.monotonic() + AGAIN_S
                unexpected = None if isinstance(error, (OSError, RetryError)) else error
                self._trouble(str(error), unexpected)
            self._stop.wait(LOOK_S)

    def tend(self) -> bool:
        """One round, if it is time for one. True when there is more to do at once.

        ``OSError``, ``RetryError``: the archive's disk or the ledger's is in trouble; nothing was removed on a guess.
        """
        begin = self._clock.monotonic()
        if begin < self._not_before:
            return False
        lacking = self._lacking()
        if begin < self._next and not lacking:
            return False
        more = self._round(lacking)
        now = self._clock.monotonic()
        pause = SHARE * (now - begin)
        self._next = now if more else now + max(TIDY_S, pause)
        self._not_before = now if more else now + max(AGAIN_S, pause)
        return more

    def _lacking(self) -> int:
        """Bytes that the archive has to give back to its disk. It begins before the results' retention does."""
        if not self._floor_mb:
            return 0
        try:
            facts = os.statvfs(self._root)
        except FileNotFoundError:
            return 0  # nothing was archived yet, or its disk is away
        free, margin = facts.f_bavail * facts.f_frsize, max(16, self._floor_mb // 4)
        begin, enough = (self._floor_mb + 2 * margin) << 20, (self._floor_mb + 3 * margin) << 20
        return enough - free if free < begin else 0

    # -- a round -----------------------------------------------------------------------------------------------------

    def _round(self, lacking: int) -> bool:
        asked = self._asked_up_to
        found = survey(
            self._root,
            self._patterns,
            old_before_ns=self._old_before_ns(),
            asked_up_to=asked,
            ended=self._stop.is_set,
        )
        if self._stop.is_set():
            return False
        since = self._known.open_since()  # asked after the walk: what it met was committed before
        going = _Going(self._root, found.size, _ns(since) if since else None, self._stop.is_set)
        aged = going.remove(found.aged.images(), lambda: False)
        limit = self._gb * 1e9 if self._gb is not None else float("inf")
        self._over = going.bytes > limit * (0.95 if self._over else 1)
        goal = min(limit * 0.95 if self._over else limit, found.size - lacking if lacking else limit)
        shed, more = self._shed(found, going, goal) if going.bytes > goal else (0, False)
        self._tell(aged, shed, found.size - going.bytes, by_space=bool(lacking) and found.size <= limit)
        if not self._stop.is_set():
            self._settle(found, going, over=going.bytes > limit and not more)
        return (more or found.aged.cut) and not going.errors and (bool(aged + shed) or self._asked_up_to != asked)

    def _shed(self, found: Survey, going: _Going, goal: float) -> tuple[int, bool]:
        """Remove down to ``goal``; how many images went, and whether others may that this walk does not remember."""

        def enough() -> bool:
            return going.bytes <= goal

        went = going.remove(self._ordinary(found.fresh.images()), enough)
        if enough() or (found.fresh.cut and not going.held):
            return went, not enough()
        went += going.remove(found.oldest.images(), enough)
        return went, not enough() and found.oldest.cut and not going.held

    def _ordinary(self, images: list[Image]) -> Iterator[Image]:
        """Those that nobody will ask for. The ledger is asked by the hour, as it is for the frames of a camera."""
        for hour, some in groupby(images, key=lambda image: image.archived_ns // _HOUR_NS):
            begin = _EPOCH + timedelta(hours=hour)
            names = self._known.interesting(begin - _LATE, begin + timedelta(hours=1))
            for image in some:
                if not _is_among(names, image.path):
                    yield image
                self._asked_up_to = image

    def _old_before_ns(self) -> int:
        oldest = self._known.before(self._days) if self._days is not None else None
        return _ns(oldest) if oldest is not None else 0

    # -- what is said ------------------------------------------------------------------------------------------------

    def _tell(self, aged: int, shed: int, freed: int, *, by_space: bool) -> None:
        if not aged + shed:
            return
        kind = "space" if by_space else "size"
        self._health.count("archive_removed", aged, kind="age")
        self._health.count("archive_removed", shed, kind=kind)
        _log.info(
            "source %s: %d archived images removed, %.1f MB: %d by age, %d by %s",
            self._source, aged + shed, freed / 1e6, aged, shed, kind,
        )  # fmt: skip
        if shed and by_space and self._clock.monotonic() >= self._next_told:
            self._next_told = self._clock.monotonic() + _TOLD_AGAIN_S
            _log.warning(
                "archive_early: source %s: space is short on the archive's disk: images go before their time, those of "
                "interest last; a larger disk or a smaller archive_keep_gb would hold them evenly",
                self._source,
            )

    def _settle(self, found: Survey, going: _Going, *, over: bool) -> None:
        errors = [one for one in [*going.errors, *found.errors] if not _is_away(one)]
        if errors:
            path, error = errors[0]
            self._trouble(f"{readable_name(path) or self.folder}: {error.strerror or error}")
        elif over:
            detail = "more than archive_keep_gb, and what is left has results that are not delivered yet"
            self._trouble(detail, level=WARNING)
        else:
            self._health.over(self._problem)

    def _trouble(self, detail: str, fault: Exception | None = None, level: int = ERROR) -> None:
        if self._health.raise_problem(self._problem, detail):
            _log.log(
                level,
                "source %s: archive_not_tidied: %s: %s; images stay in the archive, which grows; tried again",
                self._source, self.folder, detail, exc_info=fault,
            )  # fmt: skip


class _Going:
    """The removing of one round."""

    def __init__(self, root: bytes, size: int, open_since_ns: int | None, ended: Callable[[], bool]) -> None:
        self._root, self._open_since_ns, self._ended = root, open_since_ns, ended
        self.bytes = size  #: what is left
        self.held = False  #: it came to one that has to wait, or failed too often
        self.errors: list[tuple[bytes, OSError]] = []

    def remove(self, images: Iterable[Image], enough: Callable[[], bool]) -> int:
        """The oldest first, until ``enough()``; how many went. Behind the first that has to wait none is looked at."""
        went = 0
        for image in images:
            if enough() or self._ended():
                break
            waits = self._open_since_ns is not None and image.archived_ns >= self._open_since_ns
            self.held = waits or len(self.errors) >= TRIES
            if self.held:
                break
            try:
                freed = remove(self._root, image)
            except OSError as error:
                self.errors.append((image.path, error))
                continue
            if freed is not None:
                self.bytes -= freed
                went += 1
        return went


def _is_among(names: Collection[str], path: bytes) -> bool:
    """Whether the name of its result is among these, also where a taken name gave it a number (``a_1.png``)."""
    return bool(names) and (readable_name(path) in names or readable_name(_NUMBER.sub(b"", path)) in names)


def _is_away(one: tuple[bytes, OSError]) -> bool:
    """The archive itself is not there: nothing was archived yet, or its disk is away, which letting go tells."""
    return one[0] == b"" and isinstance(one[1], FileNotFoundError)


def _ns(moment: datetime) -> int:
    return int((moment - _EPOCH).total_seconds()) * 10**9
