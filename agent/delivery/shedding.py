"""What can go from a results folder before its time, when space is short: the least interesting first.

    1. files of single results that are OK      (their line stays in the daily log)
    2. … that are NotDecidable
    3. daily logs of days that are over
    4. files of single results that are NotOK, or were reviewed
    5. of a day that is not over the log, cut into parts

Invariants
- Within each step the oldest goes first. What a sink has still to deliver never goes, nor a file that is not a result.
- Removing needs no space, and no list of a million names is ever held: a call removes ``limit`` files at most, and the
  next one goes on where it ended.
- Files are written in the order of delivery: behind the first of a day that is not delivered none is looked at.
"""

from __future__ import annotations

import heapq
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import msgspec

from agent.delivery import parts
from agent.result import Evaluation

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_AT_ONCE = 20_000  #: names held at once: to find the oldest of them, the whole folder has to be looked through
_BLOCK = 512  #: st_blocks counts in these
_WORTH_CUTTING = 256 << 10  #: bytes: a log that has no more holds up nobody, and each part is a file
_ON_THE_WAY = 100  #: results at the end of a log that may be under delivery just now
Age = tuple[int, str]  #: modification time in ns, name


class _Image(msgspec.Struct):
    name: str
    sha256: str | None


class Head(msgspec.Struct):
    """What decides whether a result may go."""

    result_id: str
    ledger_id: str
    sequence: int
    evaluation: Evaluation
    image: _Image


_HEAD = msgspec.json.Decoder(Head)


@dataclass(frozen=True)
class Shed:
    """What a call removed."""

    kind: str
    files: int
    bytes: int


class ResultsFolder:
    """One results folder; used by one thread."""

    def __init__(
        self,
        directory: Path,
        delivered: Callable[[str, int], bool],
        reviewed: Callable[[str, str | None, str], bool],
        ledger_id: str = "",
        cut: Callable[[str], Path] | None = None,
    ) -> None:
        """``delivered(ledger_id, sequence)``: every sink is done with that result. ``reviewed(result_id, sha256 of its
        image, name of its image)``: a person has looked at it. ``cut(day)`` closes the log of a day as a part; lines of
        another ledger than ``ledger_id`` in it wait for nobody.
        """
        self._directory, self._delivered, self._reviewed = directory, delivered, reviewed
        self._ledger_id, self._cut = ledger_id, cut
        self._passed: dict[tuple[Evaluation, str], Age] = {}  # (evaluation, day) → up to here everything was looked at
        self._sizes: dict[str, tuple[int, int]] = {}  # day → (mtime of its folder in ns, bytes)

    def size(self) -> int:
        """Bytes on disk of files and logs. Only days that changed since the last call are looked through."""
        sizes: dict[str, tuple[int, int]] = {}
        total = 0
        for day in self._days():
            folder = self._directory / day
            changed = folder.stat().st_mtime_ns
            known = self._sizes.get(day)
            sizes[day] = known if known and known[0] == changed else (changed, _bytes_in(folder))
            total += sizes[day][1]
        self._sizes = sizes
        return total + sum(_on_disk(path.stat()) for _, path in self._logs())

    def shed(self, open_from: str, limit: int = 1000) -> Shed | None:
        """Remove a step. ``open_from``: the first day whose log is still written, or not wholly delivered.

        None when there is nothing left that may go; a later call begins anew. ``OSError`` where nothing can be removed.
        """
        for step in ("OK", "NotDecidable"):
            if shed := self._shed_files(step, limit):
                return shed
        for day, log in self._logs():
            if day < open_from:
                return _shed_log(log)
        shed = self._shed_files("NotOK", limit)
        if shed is None:
            self._passed.clear()
            shed = self._shed_open(open_from)
        return shed

    def _shed_open(self, open_from: str) -> Shed | None:
        """Of a day whose log is not to go as a whole: the oldest part that every sink is done with.

        Where none waits, and all of the log is delivered but what is on its way, that is cut (``files`` is 0 then).
        """
        open_days = [(day, log) for day, log in self._logs() if day >= open_from]
        cut_short = [(day, log) for day, log in open_days if parts.NAME.fullmatch(log.name)]
        for _, part in cut_short:
            if self._done_with(next(parts.heads_in(part, self._ledger_id), None)):
                return _shed_log(part)
        if self._cut is None or cut_short:
            return None
        for day, log in open_days:
            ours = parts.heads_in(log, self._ledger_id)
            if log.stat().st_size >= _WORTH_CUTTING and self._done_with(next(islice(ours, _ON_THE_WAY, None), None)):
                self._cut(day)
                return Shed("cut", 0, 0)
        return None

    def _done_with(self, head: parts.Head | None) -> bool:
        return head is None or self._delivered(head.ledger_id, head.sequence)

    def _days(self) -> list[str]:
        with os.scandir(self._directory) as entries:
            return sorted(e.name for e in entries if _DAY.fullmatch(e.name) and e.is_dir(follow_symlinks=False))

    def _logs(self) -> list[tuple[str, Path]]:
        with os.scandir(self._directory) as entries:
            found = [
                (name[1], Path(e.path)) for e in entries if (name := parts.LOG.fullmatch(e.name)) and not e.is_symlink()
            ]
        return sorted(found)

    def _shed_files(self, evaluation: Evaluation, limit: int) -> Shed | None:
        for day in self._days():
            folder = self._directory / day
            files, size = 0, 0
            for path in self._going(folder, evaluation):
                size += _on_disk(path.stat())
                path.unlink(missing_ok=True)
                files += 1
                if files == limit:
                    break
            if files:
                return Shed(evaluation, files, size)
            if not any(folder.iterdir()):
                folder.rmdir()
        return None

    def _going(self, folder: Path, evaluation: Evaluation) -> Iterator[Path]:
        """Files of a day that go with this evaluation, the oldest first; none behind the first that has to wait."""
        key = evaluation, folder.name
        while ages := heapq.nsmallest(_AT_ONCE, self._ages(folder, self._passed.get(key))):
            for age in ages:
                path = folder / age[1]
                head = _head(path)
                if head is not None and not self._delivered(head.ledger_id, head.sequence):
                    return
                self._passed[key] = age
                if head is not None and evaluation == self._worth(head):
                    yield path

    def _ages(self, folder: Path, after: Age | None) -> Iterator[Age]:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(".json") and entry.is_file(follow_symlinks=False):
                    age = entry.stat(follow_symlinks=False).st_mtime_ns, entry.name
                    if after is None or age > after:
                        yield age

    def _worth(self, head: Head) -> Evaluation:
        """With which results it goes: what was reviewed is kept as long as what is bad."""
        reviewed = self._reviewed(head.result_id, head.image.sha256, head.image.name)
        return "NotOK" if reviewed else head.evaluation


def _head(path: Path) -> Head | None:
    """None for what is no result, or gone."""
    try:
        return _HEAD.decode(path.read_bytes())
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _shed_log(log: Path) -> Shed:
    size = _on_disk(log.stat())
    log.unlink(missing_ok=True)
    return Shed("log", 1, size)


def _bytes_in(folder: Path) -> int:
    with os.scandir(folder) as entries:
        return sum(_on_disk(entry.stat(follow_symlinks=False)) for entry in entries)


def _on_disk(facts: os.stat_result) -> int:
    return facts.st_blocks * _BLOCK
