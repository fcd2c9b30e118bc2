"""Saved frames: whole, never overwritten, and never more than allowed."""

from __future__ import annotations

import os
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from agent.clock import ManualClock
from agent.errors import RetryError
from agent.health import Health
from agent.sources.camera import store as module
from agent.sources.camera.store import FrameStore, Keep
from tests.support.station import until

START = datetime(2026, 11, 22, 10, 30, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)


def store(folder: Path, *, days: int = 90, size: int = 10**9, name: str = "torch", health: Health | None = None) -> Any:
    return FrameStore(folder, name, "png", Keep(days, size), ManualClock(START), health or Health())


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_names_are_never_taken_twice(tmp_path: Path) -> None:
    frames = store(tmp_path)
    names = [frames.save(bytes([number]), "png", START).name for number in range(3)]
    stem = "2026-11-22/10/torch_20261122T103000000Z"
    assert names == [f"{stem}.png", f"{stem}_1.png", f"{stem}_2.png"]
    assert [(tmp_path / name).read_bytes() for name in names] == [b"\0", b"\1", b"\2"]
    assert files(tmp_path) == sorted(names)


@pytest.mark.parametrize("name", ["a b", "ü", "back\\slash", "per%cent", "-dash"])
def test_odd_names_stay_in_their_folder_and_are_found_again(tmp_path: Path, name: str) -> None:
    frames = store(tmp_path / "frames", name=name, size=1)
    frames.save(b"12", "png", START - HOUR)
    assert len(files(tmp_path / "frames" / "2026-11-22" / "09")) == 1
    again = store(tmp_path / "frames", name=name, size=1)
    again._measure()
    again.tidy()
    assert files(tmp_path) == []


def test_the_oldest_hours_go_when_there_is_too_much(tmp_path: Path) -> None:
    health = Health()
    frames = store(tmp_path, size=250, health=health)
    for hours in (30, 5, 4, 1, 0):
        frames.save(b"x" * 100, "png", START - hours * HOUR)
    frames.tidy()
    assert [name.rpartition("/")[0] for name in files(tmp_path)] == ["2026-11-22/09", "2026-11-22/10"]
    assert not (tmp_path / "2026-11-21").exists()
    assert health.counters()["frames_removed"] == 3


def test_what_is_too_old_goes_however_little_it_is_and_the_running_hour_stays(tmp_path: Path) -> None:
    frames = store(tmp_path, days=2, size=50)
    for hours in (24 * 3, 24 * 2 + 2, 24, 0):
        frames.save(b"x" * 20, "png", START - hours * HOUR)
    frames.tidy()
    assert [name.rpartition("/")[0] for name in files(tmp_path)] == ["2026-11-21/10", "2026-11-22/10"]
    for _ in range(10):
        frames.save(b"x" * 20, "png", START)
    frames.tidy()
    assert {name.rpartition("/")[0] for name in files(tmp_path)} == {"2026-11-22/10"}


def test_what_lay_there_before_counts_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    store(tmp_path).save(b"x" * 100, "png", START - 3 * HOUR)
    hour = tmp_path / "2026-11-22" / "07"
    (hour / "notes.txt").write_text("mine")
    (hour / ".torch_half.png.part").write_bytes(b"x")
    (tmp_path / "2026-11-22" / "link").symlink_to(hour)
    (tmp_path / "other").mkdir()
    frames = store(tmp_path, size=50)
    frames._measure()
    frames.tidy()
    assert files(tmp_path) == ["2026-11-22/07/notes.txt"]
    assert (tmp_path / "other").is_dir()


def test_a_full_store_is_tidied_while_it_runs(tmp_path: Path) -> None:
    frames = store(tmp_path, size=1000)
    frames.start()
    try:
        for minutes in range(120):
            frames.save(b"x" * 50, "png", START - HOUR * 5 + timedelta(minutes=minutes))
    finally:
        frames.stop()
    frames.tidy()
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.png")) <= 1000


@pytest.mark.parametrize("moment", ["it has begun", "it has its name"])
def test_the_frame_that_is_being_saved_is_left_alone(tmp_path: Path, monkeypatch: Any, moment: str) -> None:
    """As at the turn of an hour, with a store that is full."""
    frames, begin, sync = store(tmp_path, size=100), FrameStore._begin, os.fsync

    def shed() -> None:
        frames._measure()
        while frames.shed():
            pass

    def begun(*names: Any) -> Any:
        file = begin(*names)
        shed()
        return file

    def synced(number: int) -> None:
        shed()
        sync(number)

    frames.save(b"x" * 80, "png", START - 2 * HOUR)
    if moment == "it has begun":
        monkeypatch.setattr(FrameStore, "_begin", begun)
    else:
        monkeypatch.setattr(os, "fsync", synced)
    saved = frames.save(b"x" * 90, "png", START - HOUR)
    assert files(tmp_path) == [saved.name]
    monkeypatch.undo()
    frames.tidy()
    assert files(tmp_path) == [saved.name], "it counts once"


def test_trouble_ends_no_housekeeping(tmp_path: Path, monkeypatch: Any) -> None:
    """A file that somebody removes at the same moment, a ledger that cannot answer just then."""
    monkeypatch.setattr(module, "AGAIN_S", 0.05)
    health, troubles = Health(), [FileNotFoundError(2, "gone"), RetryError("not now"), FileNotFoundError(2, "gone")]

    def interesting(_begin: datetime, _end: datetime) -> list[str]:
        if troubles:
            raise troubles.pop()
        return []

    frames = FrameStore(tmp_path, "torch", "png", Keep(90, 150), ManualClock(START), health, interesting)
    for hours in (3, 2, 0):
        frames.save(b"x" * 100, "png", START - hours * HOUR)
    raised = threading.Event()
    health.on_change(lambda: raised.set() if health.problems() else None)
    frames.start()
    try:
        until(lambda: len(files(tmp_path)) == 1, "the housekeeping to go on")
        until(lambda: not health.problems(), "the problem to be over")
    finally:
        frames.stop()
    assert raised.is_set()
    assert not troubles


def test_nothing_half_is_left_when_the_disk_is_full(tmp_path: Path, monkeypatch: Any) -> None:
    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    frames = store(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        frames.save(b"x", "png", START)
    assert files(tmp_path) == []


def test_the_file_is_synced_after_it_has_its_name(tmp_path: Path, monkeypatch: Any) -> None:
    seen = []
    monkeypatch.setattr(os, "fsync", lambda _fd: seen.append(files(tmp_path)))
    saved = store(tmp_path).save(b"x", "png", START)
    assert seen == [[saved.name]]
