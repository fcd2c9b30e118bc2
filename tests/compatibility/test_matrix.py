"""`make matrix` finds what is really there, and never counts what did not run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from locks.reading import PYTHONS
from tests.compatibility import matrix
from tests.docs.pages import ROOT

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"


def a_python(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any Python; `bin` is its PATH."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    return tmp_path


def test_a_shim_with_nothing_behind_it_is_no_python(empty: Path) -> None:
    a_python(empty / "bin" / f"python{HERE}", "echo 'pyenv: command not found' >&2; exit 127")
    assert matrix.interpreter(HERE) is None
    real = empty / "pyenv" / "versions" / f"{HERE}.1" / "bin" / f"python{HERE}"
    a_python(real, f'exec {sys.executable} "$@"')
    assert matrix.interpreter(HERE) == real


def test_another_python_under_the_name_is_not_taken(empty: Path) -> None:
    a_python(empty / "bin" / "python3.10", "echo 3.9 cpython")
    a_python(empty / "bin" / "python3.11", "echo 3.11 pypy")
    assert [matrix.interpreter(python) for python in ("3.10", "3.11")] == [None, None]


def test_what_is_not_here_is_said_and_not_counted(empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert matrix.main(["--directory", str(empty)]) == 0
    said = capsys.readouterr().out
    assert said.count("not here") == 4
    assert "passed" not in said
    assert "Not here, so not run: Python 3.10, 3.11, 3.12, 3.13." in said
    assert matrix.main(["--directory", str(empty), "--all"]) == 1


def test_an_environment_that_cannot_be_made_has_failed(empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a_python(empty / "bin" / "python3.12", '[ "$1" = -c ] && echo 3.12 cpython')
    assert matrix.main(["--directory", str(empty)]) == 1
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("3.12"))
    assert "FAILED" in line
    assert "passed" not in line


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("....\n12 passed, 1 deselected in 3.21s\n", "12 passed, 1 deselected"),
        ("=== 1 failed, 3 passed in 62.10s (0:01:02) ===\n", "1 failed, 3 passed"),
        ("no tests ran in 0.01s\n", "no test ran"),
    ],
)
def test_the_closing_line_is_pytests(said: str, told: str) -> None:
    assert matrix.summary(said) == told


@pytest.mark.parametrize(
    ("ended", "told"),
    [
        ([(0, "3 passed in 1s\n"), (0, "12 passed, 1 deselected in 3.21s\n")], "15 passed"),
        ([(1, "1 failed, 3 passed in 1s\n"), (1, "1 error, 2 passed in 1s\n")], "1 error, 1 failed, 5 passed"),
        ([(0, "3 passed in 1s\n"), (5, "9 deselected in 0.01s\n")], "3 passed"),
        ([(5, "no tests ran in 0.01s\n")], "no test ran"),
        ([(0, "3 passed in 1s\n"), (-9, "")], "pytest ended with -9"),
    ],
)
def test_the_phases_of_a_run_are_added_up(ended: list[tuple[int, str]], told: str) -> None:
    assert matrix.together(ended) == told


def test_each_supported_python_has_its_lock_and_its_classifier() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'requires-python = ">=3.10,<3.14"' in project
    for python in PYTHONS:
        assert f'"Programming Language :: Python :: {python}"' in project
        assert (ROOT / "locks" / f"matrix-{python}.txt").is_file()


def test_what_a_run_says_is_shown_and_kept(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = matrix.shown([sys.executable, "-c", "print('..'); print('2 passed in 0.1s'); raise SystemExit(1)"])
    assert (code, matrix.summary(said)) == (1, "2 passed")
    assert capsys.readouterr().out == said
