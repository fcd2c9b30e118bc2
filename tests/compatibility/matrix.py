"""The agent on every Python that it supports: `make matrix`.

Each Python that is on this machine gets an environment of its own, from its lock file and by hash. In it run the
agent's tests in their two phases (not those of training and documentation, nor those that boot a bare Debian, whose
own Python it is that counts there), the self-test of the shipped bundle, and the demo: the whole station. A Python
that is not here is not run and not counted: the table says so.

Exit code: 0 all that ran passed, 1 something did not, or with --all one of the Pythons is not here.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locks.reading import PYTHONS
from tests.phases import NO_TESTS, TOGETHER, phases

ROOT = Path(__file__).resolve().parents[2]
#: What every Python runs in the test command: a verdict is the same, and what is stored and sent is read again.
QUICK = ("tests/bundle", "tests/model", "tests/ledger", "tests/cli", "tests/test_image.py", "tests/test_schemas.py")
OTHERS = ("tests/training", "tests/docs", "tests/locks", "tests/compatibility", "tests/deploy")


@dataclass(frozen=True)
class Run:
    """What one Python gave."""

    python: str
    version: str  #: in full; empty where it is not here
    tests: str = "not run"
    self_test: str = "not run"
    demo: str = "not run"
    seconds: float = 0.0
    passed: bool = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is here, print the table."""
    options = _parser().parse_args(arguments)
    here = {python: found for python in PYTHONS if (found := interpreter(python))}
    runs = []
    for python in PYTHONS:
        if python not in here:
            runs.append(Run(python, ""))
        elif python != options.without:
            runs.append(run(python, here[python], options.directory / python, options.pytest, quick=options.quick))
    print("\n" + table(runs))
    absent = [one.python for one in runs if not one.version]
    if absent:
        print(f"Not here, so not run: Python {', '.join(absent)}. Looked on PATH and below ~/.pyenv/versions.")
    failed = any(one.version and not one.passed for one in runs)
    return 1 if failed or (options.all and absent) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Run the agent's tests on every supported Python that is on this machine."
    )
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}, without the slow ones")
    parser.add_argument("--all", action="store_true", help="fail when one of the Pythons is not here")
    parser.add_argument("--without", metavar="X.Y", help="leave this one out: it has run already")
    parser.add_argument("--directory", type=Path, default=ROOT / "build" / "matrix", help="for the environments")
    parser.add_argument("pytest", nargs="*", help="words for pytest, after --")
    return parser


def interpreter(python: str) -> Path | None:
    """An executable that really is this Python: a name on PATH may be a shim with nothing behind it."""
    for candidate in _candidates(python):
        code = "import sys, venv; print('%d.%d' % sys.version_info[:2], sys.implementation.name)"
        try:
            done = subprocess.run([candidate, "-c", code], capture_output=True, text=True, timeout=30, check=False)
        except OSError:
            continue
        if done.returncode == 0 and done.stdout.split() == [python, "cpython"]:
            return candidate
    return None


def _candidates(python: str) -> Iterator[Path]:
    name = f"python{python}"
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        yield Path(folder) / name
    versions = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    yield from sorted(versions.glob(f"{python}.*/bin/{name}"), reverse=True)


def run(python: str, executable: Path, place: Path, words: Sequence[str], *, quick: bool) -> Run:
    """Make the environment and run everything in it."""
    started = time.monotonic()
    print(f"--- Python {python}", flush=True)
    try:
        binaries = environment(python, executable, place)
    except subprocess.CalledProcessError as error:
        return Run(python, python, tests=f"not run: {error.cmd[1:4]} failed")
    version = _said([binaries / "python", "-c", "import platform; print(platform.python_version())"]).strip()
    self_test, station = shipped_bundle(binaries), demo(binaries)
    if quick:
        parts = [[*TOGETHER, "-m", "not training and not slow and not quiet", *QUICK]]
    else:
        parts = [[*part, "tests", *(f"--ignore={one}" for one in OTHERS)] for part in phases("not training")]
    pytest = [binaries / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    ended = [shown([*pytest, *part, *words]) for part in parts]
    fine = any(code == 0 for code, _ in ended) and all(code in (0, NO_TESTS) for code, _ in ended)
    passed = fine and self_test == station == "passed"
    return Run(python, version, together(ended), self_test, station, time.monotonic() - started, passed)


def together(ended: Sequence[tuple[int, str]]) -> str:
    """What the parts of one run counted, added up; exit codes that are no count are told as they are."""
    odd = [code for code, _ in ended if code not in (0, 1, NO_TESTS)]
    if odd:
        return f"pytest ended with {', '.join(map(str, odd))}"
    counts: dict[str, int] = {}
    for _, said in ended:
        for number, word in re.findall(r"(\d+) (\w+)", summary(said)):
            counts[word] = counts.get(word, 0) + int(number)
    told = [f"{counts[word]} {word}" for word in sorted(counts, key=_order) if word != "deselected"]
    return ", ".join(told) or "no test ran"


def _order(word: str) -> tuple[bool, str]:
    """What went wrong first."""
    return (word == "passed", word)


def shown(command: Sequence[Path | str]) -> tuple[int, str]:
    """Run it in the checkout, and show what it says while it says it. Exit code, and all of it."""
    said = b""
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while part := process.stdout.read1():
            said += part
            print(part.decode(errors="replace"), end="", flush=True)
    return process.returncode, said.decode(errors="replace")


def environment(python: str, executable: Path, place: Path) -> Path:
    """A virtual environment with exactly what the lock file says; its ``bin``. Made anew when the lock has changed."""
    lock = ROOT / "locks" / f"matrix-{python}.txt"
    mark = place / "lock.txt"
    if not mark.exists() or mark.read_bytes() != lock.read_bytes():
        subprocess.run([executable, "-m", "venv", "--clear", place], check=True)
        pip = [place / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--require-hashes", "-r", lock], check=True)
        subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--editable", ROOT], check=True)
        mark.write_bytes(lock.read_bytes())
    return place / "bin"


def shipped_bundle(binaries: Path) -> str:
    """The self-test of the bundle that ships: golden images through this Python's decoder and runtime."""
    told = _answer([binaries / "weldwatch", "bundle", "verify", "weld-demo", "--json"])
    return "passed" if told.get("ok") is True else "failed"


def demo(binaries: Path, frames: int = 10) -> str:
    """The whole station: simulated camera, capture folder, model, ledger, JSON on disk, embedded broker."""
    told = _answer([binaries / "weldwatch", "demo", "--frames", str(frames), "--rate", "10", "--json"])
    counts = {told.get(key) for key in ("inspected", "json_files", "mqtt_received")}
    return "passed" if counts == {frames} else "failed"


def _answer(command: Sequence[Path | str]) -> dict[str, Any]:
    """The last line, as JSON; empty where the command fails. What it says of that is shown."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return dict(json.loads(done.stdout.splitlines()[-1])) if done.returncode == 0 and done.stdout else {}


def summary(said: str) -> str:
    """pytest's closing line, without its decoration and time."""
    lines = re.findall(r"^=*\s*(\d+ \w+(?:, \d+ \w+)*) in ", said, re.MULTILINE)
    return lines[-1] if lines else "no test ran"


def table(runs: Sequence[Run]) -> str:
    """For people, and for the log of a run."""
    lines = [f"{'Python':<10} {'agent tests':<34} {'self-test':<10} {'demo':<8} {'seconds':>7}  verdict"]
    for one in runs:
        verdict = "passed" if one.passed else "FAILED" if one.version else "not here"
        name = one.version or one.python
        lines.append(f"{name:<10} {one.tests:<34} {one.self_test:<10} {one.demo:<8} {one.seconds:>7.0f}  {verdict}")
    return "\n".join(lines)


def _said(command: Sequence[Path | str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main())
