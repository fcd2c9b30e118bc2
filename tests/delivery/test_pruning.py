"""Old results on disk go; nothing undelivered, foreign or fresh does."""

from __future__ import annotations

import errno
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from agent.clock import ManualClock
from agent.config import ResultsConfig
from agent.delivery.json_files import JsonFiles
from tests.support.results import stored
from tests.support.results_folder import files, sink


def test_old_days_are_removed_but_nothing_undelivered_or_foreign(tmp_path: Path) -> None:
    days = [f"2026-11-{day:02d}" for day in range(10, 20)]
    sink(tmp_path).deliver([stored(n, created_at=f"{day}T10:00:00.000Z") for n, day in enumerate(days, 1)])
    agent = sink(tmp_path)  # another process than the one that wrote them
    (tmp_path / days[0] / "notes.txt").write_text("a technician's")
    (tmp_path / "2026-archive").mkdir()
    keep_from = datetime(2026, 11, 15, 12, tzinfo=timezone.utc)
    assert agent.prune(keep_from, undelivered_since=datetime(2026, 11, 13, 1, tzinfo=timezone.utc), limit=4) == 4
    assert agent.prune(keep_from, undelivered_since=datetime(2026, 11, 13, 1, tzinfo=timezone.utc)) == 2
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == [f"{day}.jsonl" for day in days[3:]]
    assert agent.prune(keep_from) == 4
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [days[0], *days[5:], "2026-archive"]
    assert [path.name for path in (tmp_path / days[0]).iterdir()] == ["notes.txt"]


def test_what_cannot_be_removed_keeps_nothing_else_and_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of another owner, more than a call removes, in the oldest folder."""
    sink(tmp_path).deliver([stored(n, f"{n}.png", "2026-11-10T10:00:00.000Z") for n in range(1, 31)])
    sink(tmp_path).deliver([stored(n, f"{n}.png", "2026-11-11T10:00:00.000Z") for n in range(31, 51)])
    real = Path.unlink

    def unlink(self: Path, missing_ok: bool = False) -> None:
        if self.parent.name == "2026-11-10":
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        real(self, missing_ok=missing_ok)

    agent, keep_from = sink(tmp_path), datetime(2026, 11, 20, tzinfo=timezone.utc)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        assert [agent.prune(keep_from, limit=10) for _ in range(3)] == [10, 10, 2]
        assert (len(files(tmp_path)), len(list(tmp_path.glob("*.jsonl")))) == (30, 0)
        with pytest.raises(PermissionError, match="2026-11-10"):
            agent.prune(keep_from, limit=10)
    assert [agent.prune(keep_from, limit=10) for _ in range(4)] == [10, 10, 10, 0]
    assert list(tmp_path.iterdir()) == []


def test_results_of_a_clock_that_was_wrong_are_not_old(tmp_path: Path) -> None:
    """Written in 1970, until NTP put the clock right; by the monotonic clock they are minutes old."""
    clock = ManualClock(datetime(2026, 11, 22, 10, tzinfo=timezone.utc))
    agent = JsonFiles(ResultsConfig(directory=str(tmp_path)), clock)
    kept = timedelta(days=90)
    agent.deliver([stored(1, created_at="1970-01-01T00:01:00.000Z")])
    clock.advance(40 * 86_400)
    agent.deliver([stored(2, created_at="1970-02-10T00:01:00.000Z")])
    clock.advance(49.9 * 86_400)
    assert agent.prune(clock.now() - kept) == 0
    clock.advance(0.1 * 86_400)
    assert agent.prune(clock.now() - kept) == 2, "an agent that runs for months prunes all the same"
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["1970-02-10", "1970-02-10.jsonl"]
    clock.advance(40 * 86_400)
    assert agent.prune(clock.now() - kept) == 2
