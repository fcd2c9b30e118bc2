"""The daily log: ``YYYY-MM-DD.jsonl``, a line a result, appended in order of ``sequence``.

Invariants
- Each result one line, also after a kill: results reach a day's log in order, so the last line of the file tells which
  are there already. Where the last line is not ours (another ledger, an editor), the whole file is looked through.
- A line without its newline is repaired before anything is appended: cut off when torn, ended when it is whole.
- What is appended is synced when ``append`` returns; on a full disk the file is cut back to what it was.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agent.delivery.file_names import sync_directory, write_all
from agent.ports import Stored

_CHUNK = 1 << 16
_DAYS_REMEMBERED = 4


class Head(msgspec.Struct):
    """What identifies a result in its JSON."""

    ledger_id: str
    sequence: int
    result_id: str


_DECODER = msgspec.json.Decoder(Head)


def head_of(body: bytes) -> Head | None:
    """The identity of a result from its JSON; None when it is none."""
    try:
        return _DECODER.decode(body)
    except msgspec.DecodeError:
        return None


@dataclass(frozen=True)
class _State:
    """What a log was when we last left it. Any other inode or size means that somebody else was there."""

    inode: int
    size: int
    ledger_id: str
    sequence: int  #: the highest of that ledger in the file


class DailyLog:
    """All daily logs of one results folder; used by one thread."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[str, _State] = {}

    def append(self, day: str, batch: Sequence[Stored]) -> None:
        """Append those of ``batch`` (one day, rising sequence) that are not there yet, with one sync. ``OSError``."""
        path = self._directory / f"{day}.jsonl"
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            state = self._known.pop(day, None)
            now = os.fstat(descriptor)
            if state is None or (now.st_ino, now.st_size) != (state.inode, state.size):
                head = head_of(batch[0].body)
                state = _examine(descriptor, head.ledger_id if head else "")
                sync_directory(self._directory)  # the log may have been made just now
            lines = [part for one in batch if one.sequence > state.sequence for part in (one.body, b"\n")]
            size = _append(descriptor, state.size, b"".join(lines))
            top = max(state.sequence, batch[-1].sequence)
            self._known[day] = _State(now.st_ino, size, state.ledger_id, top)
            while len(self._known) > _DAYS_REMEMBERED:
                del self._known[next(iter(self._known))]
        finally:
            os.close(descriptor)


def _append(descriptor: int, size: int, text: bytes) -> int:
    """Append and sync, or leave the file as it was. The new size."""
    try:
        write_all(descriptor, text)
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, size)
        raise
    return size + len(text)


def _examine(descriptor: int, ledger_id: str) -> _State:
    """Repair the end of the file and find the highest sequence of ``ledger_id`` in it."""
    inode, size = os.fstat(descriptor).st_ino, os.fstat(descriptor).st_size
    last, torn = _tail(descriptor, size)
    if torn and head_of(torn) is not None:
        size = _append(descriptor, size, b"\n")
        last = torn
    elif torn:
        size -= len(torn)
        os.ftruncate(descriptor, size)
    head = head_of(last)
    if head is not None and head.ledger_id == ledger_id:
        return _State(inode, size, ledger_id, head.sequence)
    return _State(inode, size, ledger_id, _highest(descriptor, ledger_id) if size else 0)


def _tail(descriptor: int, size: int) -> tuple[bytes, bytes]:
    """The last whole line (without newline) and what follows it."""
    tail, at = b"", size
    while at > 0 and tail.count(b"\n") < 2:
        step = min(_CHUNK, at)
        at -= step
        tail = os.pread(descriptor, step, at) + tail
    whole, newline, torn = tail.rpartition(b"\n")
    return (whole.rpartition(b"\n")[2] if newline else b""), torn


def _highest(descriptor: int, ledger_id: str) -> int:
    """The highest sequence of ``ledger_id`` in the whole file. Lines that are not results are passed over."""
    highest = 0
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        for line in file:
            head = head_of(line)
            if head is not None and head.ledger_id == ledger_id:
                highest = max(highest, head.sequence)
    return highest
