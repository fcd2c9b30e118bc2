"""The phases leave no test out, run none twice, and a failure in either is a failure."""

from __future__ import annotations

import re
import subprocess
import sys

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
