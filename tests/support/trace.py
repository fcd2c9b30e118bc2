"""What a process asked of the kernel, read from strace: which syncs it waited for, and what it did after them.

A sync counts from the moment it returned, every other call from the moment it began: so "before" in the list of steps
is what a power cut between two steps would show.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SYNCS = ("fsync", "fdatasync", "syncfs", "sync")
_LINE = re.compile(r"(\d+) +(?:<\.\.\. (\w+) resumed>|(\w+)\()(.*)")


@dataclass
class Step:
    """A system call: its name, the paths of its descriptors, its strings (bytes), and whether it failed."""

    call: str
    paths: list[str] = field(default_factory=list)
    strings: list[bytes] = field(default_factory=list)
    began: int = 0  #: line of the trace in which it began

    def names(self, part: str) -> bool:
        """Whether a path or a string of it contains ``part``."""
        return any(part in path for path in self.paths) or any(part.encode() in text for text in self.strings)


def strace(file: Path, calls: Sequence[str], *options: str, follow_bytes: int = 8192) -> list[str]:
    """The words to put before a command."""
    words = ["strace", "-f", "-y", "-xx", "-s", str(follow_bytes), "--seccomp-bpf", "-o", str(file)]
    return [*words, "-e", f"trace={','.join(calls)}", *options]


def steps(file: Path) -> list[Step]:
    """All calls that succeeded, in the order in which they count."""
    return list(_steps(file))


def _steps(file: Path) -> Iterator[Step]:
    begun: dict[str, Step] = {}
    with file.open(encoding="ascii", errors="replace") as lines:
        for number, line in enumerate(lines):
            found = _LINE.match(line)
            if found is None:
                continue
            thread, resumed, call, rest = found.groups()
            if resumed:
                step = begun.pop(thread, Step(resumed))
            else:
                step = Step(call, began=number)
                step.paths = [os.fsdecode(_bytes(text)) for text in re.findall(r"<((?:\\x..)+)>", rest)]
                step.strings = [_bytes(text) for text in re.findall(r'"([^"]*)"', rest)]
            unfinished = "<unfinished ...>" in rest
            if unfinished:
                begun[thread] = step
            counts = not unfinished if step.call in SYNCS else not resumed
            if counts and (unfinished or " = -1 " not in rest):
                yield step


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))
