"""Problems begin and end, and the log tells both."""

from __future__ import annotations

import logging

import pytest

from agent.health import Health
from agent.logs import code_of
from tests.docs.pages import ROOT


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


#: Where an end is no news, or is told in other words: file → how often, and why.
SILENT = {
    "agent/health.py": (2, "over itself"),
    "agent/app/foresight.py": (1, "certificate_ends becomes certificate_ended, which is told"),
    "agent/app/bundles/life.py": (2, "a refusal makes room for the next one, which is told"),
    "agent/delivery/mqtt/inbox.py": (1, "answers_denied, after a connection: the next answer tells"),
    "agent/delivery/mqtt/upkeep.py": (1, "broker_was_away tells of an end itself"),
    "agent/sources/camera/feed.py": (1, "camera_gap tells how long camera_stalled was"),
}


def test_no_problem_ends_in_silence() -> None:
    calls = {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8").count("clear_problem(")
        for path in (ROOT / "agent").rglob("*.py")
    }
    silent = {path: count for path, (count, _why) in SILENT.items()}
    assert {path: count for path, count in calls.items() if count} == silent
