"""Results on disk: ``YYYY-MM-DD/<image stem>_<timestamp>.json`` each, and ``YYYY-MM-DD.jsonl`` a day (UTC).

Where space is short, a day's log is cut into ``parts``.

Invariants
- ``deliver`` counts a result only when its file, the name of that file and its line in the daily log are synced.
- Each ``result_id`` has one file and one line, also after a kill in between: a name that is taken by the same id is the
  file of before, one taken by another id is left alone and the next suffix used.
- No file is visible under its final name before it is whole. Temporary names begin with a dot.
- Syncs: one for all files of a batch (of the file system; a small batch syncs file by file), one a folder, one a daily
  log, so that a slow disk is shared.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from itertools import groupby
from pathlib import Path

from agent.clock import Clock, SystemClock
from agent.config import ResultsConfig
from agent.delivery.daily_log import DailyLog
from agent.delivery.file_names import (
    candidates,
    day_of,
    put_in_place,
    sync_directory,
    sync_file_system,
    write_temporary,
)
from agent.delivery.parts import LOG, head_of
from agent.errors import RejectError, RetryError
from agent.ports import Pace, Stored

#: What placing a file under its name answers when the file system will never take that name (EINVAL: FAT, for a colon).
_NEVER = {errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL}
_TOGETHER = 4  #: files from which one sync of the file system is cheaper than one each
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


class JsonFiles:
    """The sink of every station: it needs nothing but a disk."""

    name = "files"
    # Four batches a second at most: at 20 images a second and 10 ms a sync the disk still has most of its time left.
    pace = Pace(batch=100, interval_s=0.25, backoff_max_s=3.0)

    def __init__(self, config: ResultsConfig, clock: Clock | None = None) -> None:
        self._directory = Path(config.directory)
        self._per_image, self._daily_log = config.per_image, config.daily_log
        self._log = DailyLog(self._directory)
        self._clock = clock or SystemClock()
        self._written: dict[str, float] = {}  # day → when we last wrote there (monotonic), while that is recent

    def open(self, wake: Callable[[], None]) -> None:
        """A disk does not tell when it has space again; the pause between tries is short instead."""

    def close(self) -> None:
        """Nothing is held open between calls."""

    def deliver(self, batch: Sequence[Stored]) -> int:
        """Write files and log lines from the front. ``RetryError`` on a full or missing disk, nothing half written.

        ``RejectError`` only for the name of the first file; trouble with a folder or a log is never one result's fault.
        """
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._written.update(dict.fromkeys((day_of(one.created_at) for one in batch), self._clock.monotonic()))
            written = self._write_files(batch) if self._per_image else len(batch)
            if self._daily_log:
                for day, results in groupby(batch[:written], key=lambda one: day_of(one.created_at)):
                    self._log.append(day, list(results))
        except OSError as error:
            raise self._explain(error) from error
        return written

    def _write_files(self, batch: Sequence[Stored]) -> int:
        """How many from the front have their file, durably. The error of the first one is raised."""
        together = len(batch) >= _TOGETHER
        temporary: list[Path] = []
        folders: dict[Path, None] = {}
        placed = 0
        try:
            try:
                for one in batch:
                    path = self._folder(one) / f".{one.result_id}.tmp"
                    write_temporary(path, one.body + b"\n", sync=not together)
                    temporary.append(path)
            except OSError:
                if not temporary:
                    raise
            if together:
                sync_file_system(self._directory)
            try:
                for one, path in zip(batch, temporary, strict=False):  # those that found space
                    _place(path, one)
                    folders[path.parent] = None
                    placed += 1
            except OSError as error:
                if not placed and error.errno in _NEVER:
                    raise _refused(batch[0], error) from error
                if not placed:
                    raise
        finally:
            for path in temporary[placed:]:
                path.unlink(missing_ok=True)
        for folder in folders:
            sync_directory(folder)
        return placed

    def _folder(self, one: Stored) -> Path:
        folder = self._directory / day_of(one.created_at)
        if not folder.is_dir():
            folder.mkdir(exist_ok=True)
            sync_directory(self._directory)
        return folder

    def _explain(self, error: OSError) -> RetryError:
        where = error.filename or self._directory
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return RetryError(f"{self._directory}: the disk is full; free some space, results wait in the ledger")
        return RetryError(f"{where}: {error.strerror}; check the results folder, results wait in the ledger")

    def cut_log(self, day: str) -> Path:
        """Close the log of a day as a part of it, so that it can go. ``OSError``."""
        return self._log.cut(day)

    def prune(
        self,
        keep_from: datetime,
        undelivered_since: datetime | None = None,
        limit: int = 1000,
        held: Callable[[str], bool] = lambda _day: False,
    ) -> int:
        """Remove files and logs of the days before ``keep_from``: at most ``limit`` a call, so that no call takes long.

        How many went: call again while it is more than 0. What cannot be removed is passed over; once nothing else is
        left to remove, its ``OSError`` is raised. Days from ``undelivered_since`` on stay, those that are ``held``, and
        whatever is not named as we name things.
        """
        removed, trouble = 0, None
        for entry in self._expired(keep_from, undelivered_since):
            if held(entry.name[:10]):
                continue
            went, failed = _remove(entry, limit - removed)
            removed, trouble = removed + went, trouble or failed
            if removed >= limit:
                break
        if trouble is not None and not removed:
            raise trouble
        return removed

    def _expired(self, keep_from: datetime, undelivered_since: datetime | None) -> Iterator[Path]:
        """Folders and logs of old days. A day that looks old because the clock was wrong when we wrote it is spared."""
        oldest = min(keep_from, undelivered_since or keep_from).astimezone(timezone.utc)
        first_kept = f"{oldest:%Y-%m-%d}"
        spare_since = self._clock.monotonic() - (self._clock.now() - keep_from).total_seconds()
        for day, at in list(self._written.items()):  # which the other thread adds to
            if at <= spare_since:
                self._written.pop(day, None)
        for entry in sorted(self._directory.glob("????-??-??*")):
            day = entry.name[:10]
            if not _DAY.fullmatch(day) or day >= first_kept or day in self._written or entry.is_symlink():
                continue
            if LOG.fullmatch(entry.name) or (entry.name == day and entry.is_dir()):
                yield entry


def _refused(one: Stored, error: OSError) -> RejectError:
    name = next(candidates(one.image_name, one.created_at))
    return RejectError(f"{name}: the file system does not take this name ({error.strerror})")


def _place(temporary: Path, one: Stored) -> None:
    """Give a synced file the first name that is free, or leave it at the name that is this very result's already."""
    for name in candidates(one.image_name, one.created_at):
        final = temporary.with_name(name)
        try:
            put_in_place(temporary, final)
        except FileExistsError:
            if not _holds(final, one.result_id):
                continue
            temporary.unlink()
        return


def _holds(path: Path, result_id: str) -> bool:
    """Whether the file at ``path`` is that of ``result_id``."""
    try:
        head = head_of(path.read_bytes())
    except OSError:
        return False
    return head is not None and head.result_id == result_id


def _remove(entry: Path, limit: int) -> tuple[int, OSError | None]:
    """Remove a log, or the result files of a folder and then the folder if that is all. How many, and what failed."""
    removed, trouble = 0, None
    try:
        folder = entry.is_dir()
        for file in _ours(entry) if folder else [entry]:
            if removed >= limit:
                return removed, trouble
            try:
                file.unlink(missing_ok=True)
                removed += 1
            except OSError as error:
                trouble = trouble or error
        if folder and not any(entry.iterdir()):
            entry.rmdir()
    except OSError as error:  # the folder itself
        trouble = trouble or error
    return removed, trouble


def _ours(folder: Path) -> Iterator[Path]:
    return (file for file in folder.iterdir() if file.suffix in (".json", ".tmp") and not file.is_dir())
