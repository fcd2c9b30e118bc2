"""What becomes of a file after its result is durable: never lost, never overwritten, never another one."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path

import pytest

from agent.sources import linux, moving
from agent.sources.files import signature_of


def aged(path: Path, data: bytes, seconds: float = 60.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    moment = time.time() - seconds
    os.utime(path, (moment, moment))
    return path


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_keep_leaves_everything(bench, png):
    aged(bench.captures / "a.png", png)
    bench.once()
    assert tree(bench.folder) == {"captures/a.png": png}
    assert bench.once().frames == []


def test_delete_takes_the_image_and_its_sidecar(bench, png):
    aged(bench.captures / "s" / "a.png", png)
    aged(bench.captures / "s" / "a.json", b'{"part_id": "P"}')
    aged(bench.captures / "s" / "b.json", b"{}")
    (frame,) = bench.once(after="delete").frames
    assert frame.identity.part_id == "P"
    assert tree(bench.captures) == {"s/b.json": b"{}"}


def test_archive_keeps_the_path_and_never_overwrites(bench, png, encode):
    other = encode(level=3)
    aged(bench.archive / "s" / "a.png", b"from before")
    for data in (png, other):
        aged(bench.captures / "s" / "a.png", data)
        aged(bench.captures / "s" / "a.png.json", b'{"frame": 3}')
        bench.once(after="archive", archive=str(bench.archive))
    assert tree(bench.captures) == {}
    assert tree(bench.archive) == {
        "s/a.png": b"from before",
        "s/a_1.png": png,
        "s/a_1.png.json": b'{"frame": 3}',
        "s/a_2.png": other,
        "s/a_2.png.json": b'{"frame": 3}',
    }


def test_a_name_of_255_bytes_finds_a_free_one(bench, png):
    name = "x" * 251 + ".png"
    aged(bench.archive / name, b"taken")
    aged(bench.captures / name, png)
    bench.once(after="archive", archive=str(bench.archive))
    assert tree(bench.archive) == {name: b"taken", "x" * 249 + "_1.png": png}


def test_nothing_is_let_go_before_it_is_released(bench, png):
    aged(bench.captures / "a.png", png)
    running = bench.start(after="delete", release=False)
    (frame,) = running.until_frames(1)
    assert tree(bench.captures) == {"a.png": png}
    running.source.release([frame.key])
    running.until(lambda: tree(bench.captures) == {})
    running.source.release([frame.key, b"unknown"])


def test_a_kill_between_commit_and_release_is_made_up_for(bench, png):
    aged(bench.captures / "a.png", png)
    assert len(bench.start(after="archive", archive=str(bench.archive), release=False).until_frames(1)) == 1
    bench.running[-1].stop()
    assert tree(bench.archive) == {}
    assert bench.once(after="archive", archive=str(bench.archive)).frames == []
    assert tree(bench.folder) == {"archive/a.png": png}


def test_what_cannot_be_inspected_goes_to_rejected_with_its_reason(bench, png):
    aged(bench.captures / "s" / "bad.png", b"not an image")
    aged(bench.captures / "good.png", png)
    frames = bench.once(rejected=str(bench.rejected)).frames
    assert len(frames) == 2
    assert tree(bench.captures) == {"good.png": png}
    files = tree(bench.rejected)
    assert sorted(files) == ["s/bad.png", "s/bad.png.reason.json"]
    assert files["s/bad.png.reason.json"].endswith(b"}\n")
    reason = json.loads(files["s/bad.png.reason.json"])
    assert reason["code"] == "unsupported_format"
    assert reason["image"] == "s/bad.png"
    assert reason["bytes"] == 12


def test_a_kill_before_the_rejection_is_made_up_for(bench):
    aged(bench.captures / "bad.png", b"not an image")
    bench.start(rejected=str(bench.rejected), release=False).until_frames(1)
    bench.running[-1].stop()
    assert bench.once(rejected=str(bench.rejected)).frames == []
    assert sorted(tree(bench.folder)) == ["rejected/bad.png", "rejected/bad.png.reason.json"]


@pytest.mark.parametrize("how_far", ["reason written", "image moved", "image gone"])
def test_a_kill_within_the_rejection_is_made_up_for(bench, how_far):
    aged(bench.captures / "s" / "bad.png", b"not an image")
    bench.start(rejected=str(bench.rejected), release=False).until_frames(1)
    bench.running[-1].stop()
    (intent,) = (path for path in bench.rejected.iterdir())
    (bench.rejected / "s").mkdir()
    if how_far != "image gone":
        (bench.rejected / "s" / "bad.png.reason.json").write_bytes(intent.read_bytes())
    if how_far == "image moved":
        os.rename(bench.captures / "s" / "bad.png", bench.rejected / "s" / "bad.png")
    if how_far == "image gone":
        (bench.captures / "s" / "bad.png").unlink()
    assert bench.once(rejected=str(bench.rejected)).frames == []
    whole = ["rejected/s/bad.png", "rejected/s/bad.png.reason.json"]
    assert sorted(tree(bench.folder)) == (whole if how_far != "image gone" else [])


def test_two_sources_may_share_one_folder_for_what_they_reject(bench):
    aged(bench.captures / "bad.png", b"not an image")
    bench.start(rejected=str(bench.rejected), release=False).until_frames(1)
    bench.running[-1].stop()
    other = bench.folder / "other"
    aged(other / "bad.png", b"not an image either")
    bench.once(name="other", path=str(other), rejected=str(bench.rejected))
    assert bench.once(rejected=str(bench.rejected)).frames == []
    names = ("bad.png", "bad.png.reason.json", "bad_1.png", "bad_1.png.reason.json")
    assert sorted(tree(bench.folder)) == [f"rejected/{name}" for name in names]


def test_a_new_file_under_the_name_stays_and_is_a_frame(bench, png, encode):
    other = encode(level=3)
    aged(bench.captures / "latest.png", png)
    running = bench.start(after="delete", release=False)
    (first,) = running.until_frames(1)
    os.rename(aged(bench.folder / "new.png", other), bench.captures / "latest.png")
    running.source.release([first.key])
    _, second = running.until_frames(2)
    assert tree(bench.captures) == {"latest.png": other}
    running.source.release([second.key])
    running.until(lambda: tree(bench.captures) == {})


@pytest.mark.parametrize("action", ["delete", "archive"])
def test_a_file_replaced_at_the_very_moment_is_given_back(tmp_path, monkeypatch, action):
    """Between the comparison and the rename a camera puts the next picture under the name."""
    first = aged(tmp_path / "latest.png", b"first")
    (tmp_path / "archive").mkdir()
    signature = signature_of(first.lstat())
    rename = linux.rename_new

    def replaced_just_before(source: bytes, target: bytes, source_dir: int, target_dir: int) -> None:
        monkeypatch.setattr(linux, "rename_new", rename)
        os.rename(aged(tmp_path / "next.png", b"next"), tmp_path / "latest.png")
        rename(source, target, source_dir, target_dir)

    monkeypatch.setattr(linux, "rename_new", replaced_just_before)
    at, there = os.open(tmp_path, os.O_RDONLY), os.open(tmp_path / "archive", os.O_RDONLY)
    try:
        if action == "delete":
            assert not moving.delete(b"latest.png", at, signature)
        else:
            assert moving.move(b"latest.png", at, there, signature) is None
    finally:
        os.close(at)
        os.close(there)
    assert tree(tmp_path) == {"latest.png": b"next"}


def test_what_a_kill_left_hidden_is_met_again(bench, png):
    aged(bench.captures / "a.png", png)
    bench.once()  # it has its result
    (bench.captures / "a.png").rename(bench.captures / ".weldwatch-a.png")
    assert bench.once(after="delete").frames == []
    assert tree(bench.captures) == {}


def test_where_rename_cannot_refuse_nothing_is_overwritten_either(tmp_path, monkeypatch):
    class Old:
        """A libc without renameat2."""

    monkeypatch.setattr(linux, "_libc", Old())
    aged(tmp_path / "a", b"a")
    aged(tmp_path / "b", b"b")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(FileExistsError):
            linux.rename_new(b"a", b"b", fd, fd)
        linux.rename_new(b"a", b"c", fd, fd)
        with pytest.raises(FileNotFoundError):
            linux.rename_new(b"gone", b"d", fd, fd)
    finally:
        os.close(fd)
    assert tree(tmp_path) == {"b": b"b", "c": b"a"}


@pytest.fixture
def across_devices(monkeypatch):
    """Renames out of a folder fail as they do between file systems; what is synced and unlinked is written down."""
    rename, fsync, unlink = linux.rename_new, os.fsync, os.unlink
    calls: list[str] = []

    def rename_new(source: bytes, target: bytes, source_dir: int, target_dir: int) -> None:
        if source_dir != target_dir:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        calls.append(f"rename {target.decode()}")
        rename(source, target, source_dir, target_dir)

    def note_fsync(fd: int) -> None:
        calls.append("fsync folder" if os.path.isdir(f"/proc/self/fd/{fd}") else "fsync file")
        fsync(fd)

    def note_unlink(path: bytes, **options: int) -> None:
        calls.append(f"unlink {os.fsdecode(path)}")
        unlink(path, **options)

    monkeypatch.setattr(linux, "rename_new", rename_new)
    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "unlink", note_unlink)
    return calls


def test_across_devices_the_copy_is_durable_before_the_source_goes(bench, png, across_devices):
    path = aged(bench.captures / "a.png", png)
    mtime = path.stat().st_mtime_ns
    bench.once(after="archive", archive=str(bench.archive))
    assert tree(bench.folder) == {"archive/a.png": png}
    assert (bench.archive / "a.png").stat().st_mtime_ns == mtime
    order = ["fsync file", "rename a.png", "fsync folder", "rename .weldwatch-a.png", "unlink .weldwatch-a.png"]
    assert across_devices == order


def test_a_copy_that_a_kill_left_behind_is_not_made_twice(bench, png, across_devices):
    path = aged(bench.captures / "a.png", png)
    aged(bench.archive / "a.png", png)
    os.utime(bench.archive / "a.png", ns=(path.stat().st_mtime_ns,) * 2)
    bench.once(after="archive", archive=str(bench.archive))
    assert tree(bench.folder) == {"archive/a.png": png}


def test_another_file_of_the_same_size_and_time_is_not_taken_for_the_copy(bench, png, across_devices):
    path = aged(bench.captures / "a.png", png)
    aged(bench.archive / "a.png", png[::-1])
    os.utime(bench.archive / "a.png", ns=(path.stat().st_mtime_ns,) * 2)
    bench.once(after="archive", archive=str(bench.archive))
    assert tree(bench.archive) == {"a.png": png[::-1], "a_1.png": png}


def test_trouble_is_a_problem_that_ends_when_it_is_over(bench, png, caplog):
    bench.archive.write_bytes(b"a file where the archive should be")
    running = bench.watch(after="archive", archive=str(bench.archive), rescan_s=0.1)
    for number in range(30):
        aged(bench.captures / f"{number}.png", png)
    running.until_frames(30)
    running.until(lambda: "release_failed:captures" in running.health.problems())
    assert any("release_failed: cannot let go of" in message for message in caplog.messages)
    assert len(tree(bench.captures)) == 30
    bench.archive.unlink()
    running.until(lambda: not running.health.problems())
    assert len(tree(bench.archive)) == 30
    assert len(running.frames) == 30


def test_a_folder_that_became_a_link_is_not_followed(bench, png):
    aged(bench.captures / "s" / "a.png", png)
    running = bench.start(after="delete", release=False)
    (frame,) = running.until_frames(1)
    outside = bench.folder / "outside"
    os.rename(bench.captures / "s", outside)
    os.symlink(outside, bench.captures / "s")
    running.source.release([frame.key])
    running.stop()
    assert tree(outside) == {"a.png": png}
    assert "release_failed:captures" not in running.health.problems()


def test_a_share_that_is_away_at_the_release_is_tended_when_it_returns(bench, png):
    aged(bench.captures / "a.png", png)
    running = bench.start(after="delete", release=False, rescan_s=0.1)
    (frame,) = running.until_frames(1)
    away = bench.folder / "away"
    os.rename(bench.captures, away)
    running.source.release([frame.key])
    running.until(lambda: "release_failed:captures" in running.health.problems())
    assert tree(away) == {"a.png": png}
    os.rename(away, bench.captures)
    running.until(lambda: not tree(bench.captures))
    running.until(lambda: not running.health.problems())
