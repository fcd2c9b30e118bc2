"""The daily logs as a reader meets them: which files, from where on, and as they grow.

Invariants
- Only whole lines are given: what follows the last newline is still being written, or will be repaired.
- A file is known by its inode: renamed (rotated, cut into parts) it goes on where it was, cut back it is read from its
  new end. One that is gone, because space was short, holds nothing.
- Lines stand in the order of ``sequence``, so nearly in that of ``created_at``: in a large file the begin is found by
  bisection. Where the clock was set back within a day, a part of the time that came twice may be passed over.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from agent.clock import iso_utc
from agent.errors import RetryError

Inode = tuple[int, int]
_NAME = re.compile(r"(\d{4}-\d{2}-\d{2})(?:[._-].*)?\.jsonl")
_CHUNK = 1 << 20
_BISECT_FROM = 8 << 20  #: bytes; a smaller file is read whole in some milliseconds
_POLL_S = 0.25


class _When(msgspec.Struct):
    created_at: str


class _Part(msgspec.Struct):
    part_id: str | None = None


_WHEN, _PART = msgspec.json.Decoder(_When), msgspec.json.Decoder(_Part)


@dataclass(frozen=True)
class Wanted:
    """Which results: made from ``since`` on, of one evaluation, of one part."""

    since: datetime | None = None
    evaluation: str | None = None
    part: str | None = None

    def first_day(self) -> str:
        """The day of the first log that can hold one."""
        return iso_utc(self.since)[:10] if self.since else ""

    def fits(self, line: bytes) -> bool:
        """Whether this line is one. Cheap tests on the bytes first; only what passes is decoded."""
        if self.evaluation is not None and f'"evaluation":"{self.evaluation}"'.encode() not in line:
            return False
        if self.since is not None and (created_at(line) or "") < iso_utc(self.since):
            return False
        if self.part is not None:
            try:
                return _PART.decode(line).part_id == self.part
            except msgspec.DecodeError:
                return False
        return bool(line)


def created_at(line: bytes) -> str | None:
    """When the result of a line was made (ISO, UTC); None when the line is no result."""
    try:
        return _WHEN.decode(line).created_at
    except msgspec.DecodeError:
        return None


@dataclass(frozen=True)
class Log:
    """One daily log, or a part of one."""

    path: Path
    inode: Inode
    size: int


def logs(folder: Path, first_day: str = "") -> list[Log]:
    """All daily logs from ``first_day`` on, in the order of what they hold. ``RetryError``: it cannot be read."""
    found: dict[str, list[Log]] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = _NAME.fullmatch(entry.name)
                if name and name[1] >= first_day and entry.is_file():
                    facts = entry.stat()
                    log = Log(Path(entry.path), (facts.st_dev, facts.st_ino), facts.st_size)
                    found.setdefault(name[1], []).append(log)
    except OSError as error:
        raise RetryError(f"{folder}: {error.strerror}; may this user read it?") from None
    return [log for day in sorted(found) for log in _in_order(found[day])]


def _in_order(parts: list[Log]) -> list[Log]:
    """The parts of one day, by what they begin with."""
    return parts if len(parts) == 1 else sorted(parts, key=lambda log: created_at(next(_lines(log, 0), b"")) or "~")


def size(folder: Path, wanted: Wanted) -> int:
    """Bytes to look through, at most."""
    return sum(log.size for log in logs(folder, wanted.first_day()))


def read(folder: Path, wanted: Wanted, until: Mapping[Inode, int] | None = None) -> Iterator[bytes]:
    """All lines that fit, the oldest first; ``until`` ends each file at an offset; one it does not know at 0."""
    for log in logs(folder, wanted.first_day()):
        end = log.size if until is None else until.get(log.inode, 0)
        begin = _begin(log, wanted, end)
        yield from filter(wanted.fits, _lines(log, begin, end))


def newest(folder: Path, wanted: Wanted, count: int, until: Mapping[Inode, int] | None = None) -> Iterator[bytes]:
    """The last ``count`` that fit, the oldest first; read from the end and only as far as needed."""
    found: list[bytes] = []
    for log in reversed(logs(folder, wanted.first_day())):
        end = log.size if until is None else until.get(log.inode, 0)
        for line in _backwards(log, end):
            if wanted.fits(line):
                found.append(line)
                if len(found) == count:
                    return reversed(found)
    return reversed(found)


def _open(log: Log) -> int:
    """The log, also when it was renamed (cut, rotated) since it was found; nothing at all when it is gone."""
    for path in (log.path, *sorted(log.path.parent.glob(f"{log.path.name[:10]}*.jsonl"))):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise RetryError(f"{path}: {error.strerror}; may this user read it?") from None
        facts = os.fstat(descriptor)
        if (facts.st_dev, facts.st_ino) == log.inode:
            return descriptor
        os.close(descriptor)
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def _lines(log: Log, begin: int, end: int | None = None) -> Iterator[bytes]:
    """Whole lines from ``begin`` (where one begins) to ``end``, without their newline."""
    descriptor = _open(log)
    try:
        at, rest = begin, b""
        end = log.size if end is None else end
        while at < end and (chunk := os.pread(descriptor, min(_CHUNK, end - at), at)):
            at += len(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
    finally:
        os.close(descriptor)


def _backwards(log: Log, end: int) -> Iterator[bytes]:
    """Whole lines from the last to the first."""
    descriptor = _open(log)
    try:
        rest, at, first = b"", end, True
        while at > 0:
            step = min(at, max(1 << 16, len(rest)))
            at -= step
            rest, *lines = (os.pread(descriptor, step, at) + rest).split(b"\n")
            if first and lines:
                lines.pop()  # what follows the last newline
                first = False
            yield from reversed(lines)
        if not first:
            yield rest
    finally:
        os.close(descriptor)


def _begin(log: Log, wanted: Wanted, end: int) -> int:
    """Where to begin: the offset of a line before which nothing fits."""
    if wanted.since is None or end < _BISECT_FROM:
        return 0
    since = iso_utc(wanted.since)
    descriptor = _open(log)
    try:
        low, high = 0, end  # a line begins at low, and it is too old or the first
        while high - low > _CHUNK:
            middle = (low + high) // 2
            begin, line = _line_after(descriptor, middle, high)
            if line is not None and (created_at(line) or since) < since:
                low = begin
            else:
                high = middle
        return low
    finally:
        os.close(descriptor)


def _line_after(descriptor: int, at: int, end: int) -> tuple[int, bytes | None]:
    """The first line that begins after ``at``, with its offset; None when none does before ``end``."""
    chunk = b""
    while at + len(chunk) < end:
        more = os.pread(descriptor, 1 << 14, at + len(chunk))
        if not more:
            break
        chunk += more
        begin = chunk.find(b"\n") + 1
        stop = chunk.find(b"\n", begin) if begin else -1
        if stop >= 0:
            return at + begin, chunk[begin:stop]
    return at, None


class Follower:
    """What is appended from now on, to whichever log: midnight, a rotation and a repaired end are passed over."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        #: How far each log is read. A line that is being written now is read when it is whole.
        self.ends: dict[Inode, int] = {log.inode: _end_of_lines(log) for log in logs(folder)}

    def wait(self, wanted: Wanted) -> Iterator[bytes]:
        """Wait until there is more, then what of it fits."""
        while not (grown := [log for log in self._look() if log.size > self.ends[log.inode]]):
            time.sleep(_POLL_S)
        for log in grown:
            begin = self.ends[log.inode]
            for line in _lines(log, begin):
                begin += len(line) + 1
                if wanted.fits(line):
                    yield line
            waited = begin == self.ends[log.inode]
            self.ends[log.inode] = begin
            if waited:
                time.sleep(_POLL_S)  # half a line

    def _look(self) -> list[Log]:
        found = logs(self._folder)
        for log in found:
            self.ends[log.inode] = min(self.ends.get(log.inode, 0), log.size)
        for gone in self.ends.keys() - {log.inode for log in found}:
            del self.ends[gone]
        return found


def _end_of_lines(log: Log) -> int:
    """The offset after the last newline."""
    descriptor = _open(log)
    try:
        at = log.size
        while at > 0:
            step = min(at, 1 << 14)
            at -= step
            if (found := os.pread(descriptor, step, at).rfind(b"\n")) >= 0:
                return at + found + 1
        return 0
    finally:
        os.close(descriptor)
