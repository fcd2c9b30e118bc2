"""The suite in two phases: what bears company runs side by side, then what measures has the machine to itself.

    ─▶ all but `quiet`, several workers, a file stays with one of them ─▶ `quiet`, one after the other
    ─▶ what failed, told once more ─▶ exit code

``python -m tests.phases [words for pytest]``; the words go to both. The second phase runs also when the first has
failed, and what failed in either is the last that is said: one run tells everything, and so does its end. Exit code:
that of the first phase that did not pass.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from pathlib import Path

#: One more than there are cores, as a test waits for half of its time; more than four only wait for the same disk.
WORKERS = min(4, (os.cpu_count() or 1) + 1)
#: A worker that a stuck test takes along ends the phase: xdist 3.8 would wait for ever for the one in its place.
TOGETHER = ("-n", str(WORKERS), "--dist", "loadscope", "--no-loadscope-reorder", "--max-worker-restart=0")
#: What pytest ends with when a choice of words leaves a phase without a test: no failure.
NO_TESTS = 5
#: The form of the report that has room for what ``figure`` records.
REPORT = ("-o", "junit_family=xunit1")
#: Of a failure, once more: the last lines of what pytest said of it.
RETOLD_LINES = 30


def phases(marks: str = "") -> list[list[str]]:
    """Words for pytest, a list a phase; ``marks`` narrows both."""
    both = f" and {marks}" if marks else ""
    return [[*TOGETHER, "-m", f"not quiet{both}"], ["-m", f"quiet{both}"]]


def main(words: Sequence[str]) -> int:
    """Both phases in this Python."""
    with tempfile.TemporaryDirectory() as folder:
        reports = [Path(folder) / f"{number}.xml" for number, _ in enumerate(phases())]
        codes = [
            _ended([*phase, *REPORT, f"--junit-xml={report}", *words])
            for phase, report in zip(phases(), reports, strict=True)
        ]
        for report in reports:
            for line in failures(report):
                sys.stdout.write(line + "\n")
    if set(codes) == {NO_TESTS}:
        return NO_TESTS
    return next((code for code in codes if code not in (0, NO_TESTS)), 0)


def failures(report: Path) -> Iterator[str]:
    """What failed, by pytest's report as JUnit writes it: a head and the end of its story each. Nothing for a phase
    that left no whole report: it was ended, or told to put it elsewhere.
    """
    try:
        cases = ET.parse(report).iter("testcase")  # noqa: S314  # pytest wrote it a moment ago
    except (FileNotFoundError, ET.ParseError):
        return
    for case in cases:
        for outcome in (*case.iterfind("failure"), *case.iterfind("error")):
            yield f"==== {outcome.tag}: {case.get('classname')}::{case.get('name')} ===="
            yield from (outcome.text or outcome.get("message", "")).splitlines()[-RETOLD_LINES:]


def _ended(words: Sequence[str]) -> int:
    return subprocess.run([sys.executable, "-m", "pytest", *words], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
