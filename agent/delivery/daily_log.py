"""The daily log: ``YYYY-MM-DD.jsonl``, a line a result, appended in order of ``sequence``.

Invariants
- Each result one line, also after a kill: results reach a day's log in order, so what is beyond the last line of our
  ledger is new. What is not may be a delivery repeated, or another result (a state folder restored from a snapshot
  gives sequences again): only its ``result_id`` tells, and only one that is in the file is left out.
- The file is read from its end and only as far as needed; whole where none of its lines are ours.
- A line without its newline is repaired before anything is appended: cut off when torn, ended when it is whole.
- What is appended is synced when ``append`` returns; on a full disk the file is cut back to what it was.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
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


@dataclass
class _State:
    """What a log was when we last left it. Any other inode or size means that somebody else was there."""

    inode: int
    size: int
    ledger_id: str
    sequence: int  #: up to here a sequence of that ledger may be in the file already
    known_from: int | None = None  #: from this sequence on, ``known`` holds all the ids in the file
    known: set[str] = field(default_factory=set)


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
            fresh = _absent(descriptor, state, batch)
            state.size = _append(descriptor, state.size, b"".join(part for one in fresh for part in (one.body, b"\n")))
            _note(state, batch)
            self._known[day] = state
            while len(self._known) > _DAYS_REMEMBERED:
                del self._known[next(iter(self._known))]
        finally:
            os.close(descriptor)


def _absent(descriptor: int, state: _State, batch: Sequence[Stored]) -> Sequence[Stored]:
    """Those of ``batch`` that have no line yet."""
    first = batch[0].sequence
    if first > state.sequence:
        return batch
    if state.known_from is None or first < state.known_from:
        state.known_from, state.known = first, _ids_from(descriptor, state, first)
    return [one for one in batch if one.result_id not in state.known]


def _note(state: _State, batch: Sequence[Stored]) -> None:
    """All of ``batch`` is in the file now. Ids are remembered only until the sequences are new again."""
    if batch[-1].sequence >= state.sequence:
        state.sequence, state.known_from, state.known = batch[-1].sequence, None, set()
    else:
        state.known.update(one.result_id for one in batch)


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
    """Repair the end of the file and find the last sequence of ``ledger_id`` in it."""
    inode, size = os.fstat(descriptor).st_ino, os.fstat(descriptor).st_size
    torn = next(_backwards(descriptor, size))
    if torn and head_of(torn) is not None:
        size = _append(descriptor, size, b"\n")
    elif torn:
        size -= len(torn)
        os.ftruncate(descriptor, size)
    last = next(_heads(descriptor, size, ledger_id), None)
    return _State(inode, size, ledger_id, last.sequence if last else 0)


def _ids_from(descriptor: int, state: _State, sequence: int) -> set[str]:
    """The ids of that ledger's results from ``sequence`` on. Its lines are in order, so a lower one ends the search."""
    found: set[str] = set()
    for head in _heads(descriptor, state.size, state.ledger_id):
        if head.sequence < sequence:
            break
        found.add(head.result_id)
    return found


def _heads(descriptor: int, size: int, ledger_id: str) -> Iterator[Head]:
    """The results of one ledger, last line first. Lines that are not results are passed over."""
    for line in _backwards(descriptor, size):
        head = head_of(line)
        if head is not None and head.ledger_id == ledger_id:
            yield head


def _backwards(descriptor: int, size: int) -> Iterator[bytes]:
    """What follows the last newline (b"" in a sound file), then the lines from the last to the first."""
    rest, at = b"", size
    while at > 0:
        step = min(at, max(_CHUNK, len(rest)))  # doubles within a very long line
        at -= step
        rest, *lines = (os.pread(descriptor, step, at) + rest).split(b"\n")
        yield from reversed(lines)
    yield rest
