"""The daily log: ``YYYY-MM-DD.jsonl``, a line a result, appended in order of ``sequence``.

Invariants
- Each result one line, also after a kill: results reach a day's log in order, so what is beyond the last line of our
  ledger is new. What is not may be a delivery repeated, or another result (a state folder restored from a snapshot
  gives sequences again): only its ``result_id`` tells, and only one that is in the file is left out.
- The file is read from its end and only as far as needed; whole where none of its lines are ours.
- A line without its newline is repaired before anything is appended: cut off when torn, ended when it is whole.
- A log that is cut is a part from then on (``parts``), and the lines in the parts of its day count as its own.
- What is appended is synced when ``append`` returns; on a full disk the file is cut back to what it was.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from agent.delivery import parts
from agent.delivery.file_names import sync_directory, write_all
from agent.ports import Stored

_DAYS_REMEMBERED = 4


@dataclass
class _State:
    """What a log was when we last left it. Any other inode or size means that somebody else was there."""

    inode: int
    size: int
    ledger_id: str
    sequence: int = 0  #: up to here a sequence of that ledger may be in the file already, or in a part
    known_from: int | None = None  #: from this sequence on, ``known`` holds all the ids in the file
    known: set[str] = field(default_factory=set)
    parts: list[Path] = field(default_factory=list)  #: of that day, the oldest first


class DailyLog:
    """All daily logs of one results folder; one thread appends, another one may cut."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[str, _State] = {}
        self._lock = threading.Lock()

    def append(self, day: str, batch: Sequence[Stored]) -> None:
        """Append those of ``batch`` (one day, rising sequence) that are not there yet, with one sync. ``OSError``."""
        with self._lock:
            self._append(day, batch)

    def cut(self, day: str) -> Path:
        """Close the log of a day as a part; a new one begins with the next result. ``OSError``; needs no space."""
        path = self._directory / f"{day}.jsonl"
        with self._lock:
            self._known.pop(day, None)
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
            try:
                _repair(descriptor)
            finally:
                os.close(descriptor)
            part = parts.name_for(path)
            path.rename(part)
            sync_directory(self._directory)
        return part

    def _append(self, day: str, batch: Sequence[Stored]) -> None:
        path = self._directory / f"{day}.jsonl"
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            state = self._known.pop(day, None)
            now = os.fstat(descriptor)
            if state is None or (now.st_ino, now.st_size) != (state.inode, state.size):
                head = parts.head_of(batch[0].body)
                state = _State(now.st_ino, _repair(descriptor), head.ledger_id if head else "")
                state.parts = parts.of_day(self._directory, day)
                state.sequence = _last(descriptor, state)
                sync_directory(self._directory)  # the log may have been made just now
            fresh = _absent(descriptor, state, batch)
            state.size = _write(descriptor, state.size, b"".join(part for one in fresh for part in (one.body, b"\n")))
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


def _write(descriptor: int, size: int, text: bytes) -> int:
    """Append and sync, or leave the file as it was. The new size."""
    try:
        write_all(descriptor, text)
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, size)
        raise
    return size + len(text)


def _repair(descriptor: int) -> int:
    """Repair the end of the file; its size."""
    size = os.fstat(descriptor).st_size
    torn = next(parts.backwards(descriptor, size))
    if torn and parts.head_of(torn) is not None:
        return _write(descriptor, size, b"\n")
    if torn:
        size -= len(torn)
        os.ftruncate(descriptor, size)
    return size


def _last(descriptor: int, state: _State) -> int:
    """The highest sequence of that ledger in the log and the day's parts; 0 when there is none."""
    newest = (next(heads, None) for heads in _each(descriptor, state))
    return max((head.sequence for head in newest if head is not None), default=0)


def _ids_from(descriptor: int, state: _State, sequence: int) -> set[str]:
    """The ids of that ledger's results from ``sequence`` on. A file is in order: a lower one ends its search."""
    found: set[str] = set()
    for heads in _each(descriptor, state):
        found.update(head.result_id for head in takewhile(lambda head: head.sequence >= sequence, heads))
    return found


def _each(descriptor: int, state: _State) -> Iterator[Iterator[parts.Head]]:
    """That ledger's results in the log and in each part of its day, last line first."""
    yield parts.heads(descriptor, state.size, state.ledger_id)
    for part in reversed(state.parts):
        yield parts.heads_in(part, state.ledger_id)
