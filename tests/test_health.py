"""Problems begin and end, and the log tells both."""

from __future__ import annotations

import logging

import pytest

from agent.health import Health
from agent.logs import code_of


def test_an_end_is_told_once_and_with_its_code(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "weldwatch")
    health = Health()
    health.raise_problem("disk_low", "9 MB")
    health.raise_problem("folder_missing:a: b", "gone")
    assert [health.over(code, "all goes on") for code in ("disk_low", "disk_low", "folder_missing:a: b")] == [
        True,
        False,
        True,
    ]
    assert health.problems() == {}
    assert [(record.levelname, record.getMessage(), code_of(record)) for record in caplog.records] == [
        ("INFO", "disk_low is over: all goes on", ("disk_low", None)),
        ("INFO", "source a: b: folder_missing is over: all goes on", ("folder_missing", "a: b")),
    ]
