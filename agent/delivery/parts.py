"""Parts of a day's log: what was closed because space was short, so that it can go before its day is over.

    2026-11-22.jsonl              is being written
    2026-11-22.102205123.jsonl    a part: its first result was made at 10:22:05.123 UTC

Invariants
- A part is whole lines, and never written again. It was the log itself until it was renamed: its inode is the same, and
  whoever reads along goes on where he was.
- By name parts stand in the order of what they hold, and before the log that is being written. A name says when its
  part began, so one that is gone does not come again for other results.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

NAME = re.compile(r"(\d{4}-\d{2}-\d{2})\.(\d{9})\.jsonl")
LOG = re.compile(r"(\d{4}-\d{2}-\d{2})(?:\.\d{9})?\.jsonl")  #: a log or a part of one
_CHUNK = 1 << 16


class Head(msgspec.Struct):
    """What identifies a result in its JSON."""

    ledger_id: str
    sequence: int
    result_id: str


class _Made(msgspec.Struct):
    created_at: str


_HEAD, _MADE = msgspec.json.Decoder(Head), msgspec.json.Decoder(_Made)


def head_of(body: bytes) -> Head | None:
    """The identity of a result from its JSON; None when it is none."""
    try:
        return _HEAD.decode(body)
    except msgspec.DecodeError:
        return None


def of_day(directory: Path, day: str) -> list[Path]:
    """The parts of a day, the oldest first."""
    return sorted(path for path in directory.glob(f"{day}.*.jsonl") if NAME.fullmatch(path.name))


def name_for(log: Path) -> Path:
    """What a log is going to be called as a part: a name that is free."""
    number = _began(log)
    while (part := log.with_name(f"{log.stem}.{number:09d}.jsonl")).exists():  # the clock was set back
        number += 1
    return part


def _began(log: Path) -> int:
    """When its first result was made, as the digits of HHMMSSmmm; 0 when none of the first lines is a result."""
    with log.open("rb") as file:
        for line in file.readlines(_CHUNK):
            try:
                return int(re.sub(r"\D", "", _MADE.decode(line).created_at[11:23]) or 0)
            except msgspec.DecodeError:
                continue
    return 0


def heads(descriptor: int, size: int, ledger_id: str) -> Iterator[Head]:
    """The results of one ledger in a file, last line first. Lines that are not results are passed over."""
    for line in backwards(descriptor, size):
        head = head_of(line)
        if head is not None and head.ledger_id == ledger_id:
            yield head


def heads_in(path: Path, ledger_id: str) -> Iterator[Head]:
    """As ``heads``; none of a part that is gone: every sink is done with it. ``OSError``: it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        yield from heads(descriptor, os.fstat(descriptor).st_size, ledger_id)
    finally:
        os.close(descriptor)


def backwards(descriptor: int, size: int) -> Iterator[bytes]:
    """What follows the last newline (b"" in a sound file), then the lines from the last to the first."""
    rest, at = b"", size
    while at > 0:
        step = min(at, max(_CHUNK, len(rest)))  # doubles within a very long line
        at -= step
        rest, *lines = (os.pread(descriptor, step, at) + rest).split(b"\n")
        yield from reversed(lines)
    yield rest
