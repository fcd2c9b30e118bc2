"""The suite in two phases: what bears company runs side by side, then what measures has the machine to itself.

    ─▶ all but `quiet`, several workers, a file stays with one of them ─▶ `quiet`, one after the other ─▶ exit code

``python -m tests.phases [words for pytest]``; the words go to both. The second phase runs also when the first has
failed: one run tells everything. Exit code: that of the first phase that did not pass.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

#: One more than there are cores, as a test waits for half of its time; more than four only wait for the same disk.
WORKERS = min(4, (os.cpu_count() or 1) + 1)
TOGETHER = ("-n", str(WORKERS), "--dist", "loadscope", "--no-loadscope-reorder")
#: What pytest ends with when a choice of words leaves a phase without a test: no failure.
NO_TESTS = 5


def phases(marks: str = "") -> list[list[str]]:
    """Words for pytest, a list a phase; ``marks`` narrows both."""
    both = f" and {marks}" if marks else ""
    return [[*TOGETHER, "-m", f"not quiet{both}"], ["-m", f"quiet{both}"]]


def main(words: Sequence[str]) -> int:
    """Both phases in this Python."""
    codes = [_ended([*phase, *words]) for phase in phases()]
    if set(codes) == {NO_TESTS}:
        return NO_TESTS
    return next((code for code in codes if code not in (0, NO_TESTS)), 0)


def _ended(words: Sequence[str]) -> int:
    return subprocess.run([sys.executable, "-m", "pytest", *words], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
