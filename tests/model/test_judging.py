"""What judges, told to the command line: nobody who reads it keeps an agent from starting."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from agent.model.judging import Sign, read


def test_a_reader_that_hangs_keeps_no_agent_from_starting(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Sign(tmp_path).close()
    with (tmp_path / "bundles" / "judging.json").open() as hanging:
        fcntl.flock(hanging, fcntl.LOCK_SH)
        Sign(tmp_path).close()
    assert "judging_untold: judging.json: " in caplog.text


def test_the_lock_tells_whether_an_agent_runs(tmp_path: Path) -> None:
    assert read(tmp_path) == (None, False)
    sign = Sign(tmp_path)
    assert read(tmp_path)[1]
    sign.close()
    assert not read(tmp_path)[1]
