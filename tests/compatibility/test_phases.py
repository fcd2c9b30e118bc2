"""The phases leave no test out, run none twice, and a failure in either is a failure."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import phases
from tests.docs.pages import ROOT


def collected(*words: str) -> list[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *words, "tests"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [line.rpartition("@")[0] or line for line in done.stdout.splitlines() if "::" in line]


def test_each_test_is_in_one_phase() -> None:
    together, alone = (collected(*phase) for phase in phases.phases())
    assert alone
    assert sorted(together + alone) == sorted(collected())


def test_side_by_side_a_file_or_a_folder_stays_with_one_worker() -> None:
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *phases.TOGETHER]
    chosen = ["tests/compatibility/test_matrix.py", "tests/deploy/test_containers.py", "tests/deploy/test_bare.py"]
    done = subprocess.run([*command, *chosen, "-k", "added_up or compose or half_a_file"], cwd=ROOT,
                          capture_output=True, text=True, check=False)  # fmt: skip
    workers: dict[str, set[str]] = {}
    for worker, folder in re.findall(r"\[(gw\d+)\].* PASSED tests/(\w+)/", done.stdout):
        workers.setdefault(folder, set()).add(worker)
    assert {folder: len(those) for folder, those in workers.items()} == {"compatibility": 1, "deploy": 1}, done.stdout


@pytest.mark.parametrize(
    ("codes", "told"), [((0, 0), 0), ((0, 5), 0), ((5, 0), 0), ((5, 5), 5), ((1, 0), 1), ((0, 2), 2), ((1, 5), 1)]
)
def test_either_phase_can_fail(codes: tuple[int, int], told: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = iter(codes)
    monkeypatch.setattr(phases, "_ended", lambda words: next(ended))
    assert phases.main([]) == told


def test_what_failed_in_either_is_the_last_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = quiet: alone\nfilterwarnings = error\n")
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "def test_side_by_side(): assert 'apples' == 'pears'\n"
        "@pytest.fixture\n"
        "def broken(): raise OSError('no disk')\n"
        "@pytest.mark.quiet\n"
        "def test_alone(broken): pass\n"
        "@pytest.mark.quiet\n"
        "def test_that_passes(record_property): record_property('figure', '3 s')\n"
    )
    command = [sys.executable, "-m", "tests.phases", "-n", "0", "-c", str(tmp_path / "pytest.ini"), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    told = done.stdout[done.stdout.rindex("short test summary") :]
    assert "==== failure: test_it::test_side_by_side ====" in told
    assert "'apples' == 'pears'" in told
    assert "==== error: test_it::test_alone ====" in told
    assert "OSError: no disk" in told
    assert "test_that_passes" not in told
