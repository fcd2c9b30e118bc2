"""Every file that arrives is offered once and whole, however it comes."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.support.writers import write_in_chunks

pytestmark = pytest.mark.quiet


def aged(path: Path, data: bytes, seconds: float = 60.0) -> Path:
    """Write a file that settled long ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    moment = time.time() - seconds
    os.utime(path, (moment, moment))
    return path


def test_what_lies_there_is_offered_oldest_first(bench, png):
    for number, age in enumerate((50, 90, 70)):
        aged(bench.captures / f"{number}.png", png, age)
    running = bench.start()
    assert [frame.name for frame in running.until_frames(3)] == ["1.png", "2.png", "0.png"]


def test_a_frame_carries_what_was_read(bench, png):
    aged(bench.captures / "shift1" / "a.PNG", png)
    (frame,) = bench.once().frames
    assert (frame.name, frame.source, frame.bytes) == ("shift1/a.PNG", "captures", len(png))
    assert frame.sha256 == hashlib.sha256(png).hexdigest()
    assert frame.picture is not None
    assert (frame.picture.width, frame.picture.height) == (24, 16)
    assert frame.problem is None
    assert frame.decode_ms > 0
    assert not frame.simulated


def test_a_written_file_waits_until_it_settled_and_no_longer(bench, png):
    running = bench.watch(settle_s=0.3)
    begin = time.monotonic()
    (bench.captures / "a.png").write_bytes(png)
    running.until_frames(1)
    assert 0.28 <= time.monotonic() - begin < 3.0


def test_a_file_that_settled_elsewhere_does_not_wait_again(bench, png):
    running = bench.watch(settle_s=30.0)
    os.rename(aged(bench.folder / "a.png", png), bench.captures / "a.png")
    running.until_frames(1)


@pytest.mark.parametrize("ahead", [3600, 10**9])
def test_a_time_from_the_future_is_settled_by_watching(bench, png, ahead):
    running = bench.watch()
    path = bench.captures / "a.png"
    path.write_bytes(png)
    os.utime(path, (time.time() + ahead,) * 2)
    running.until_frames(1)


@pytest.mark.parametrize("mtime", [0, -5])
def test_a_time_from_before_the_world_is_taken_as_it_is(bench, png, mtime):
    os.utime(aged(bench.captures / "a.png", png), (mtime, mtime))
    (frame,) = bench.once().frames
    assert (frame.captured_at.year, frame.captured_from) == (1970 if mtime == 0 else 1969, "mtime")


def test_a_growing_file_is_never_taken_half(bench, encode):
    data = encode(size=(200, 200), mode="RGB")
    running = bench.watch(settle_s=0.1, incomplete_s=20.0)
    with (bench.captures / "slow.png").open("wb", buffering=0) as file:
        for looked, start in enumerate(range(0, len(data), len(data) // 3)):
            running.until(lambda looked=looked: running.health.counters().get("files_incomplete", 0) >= looked)
            file.write(data[start : start + len(data) // 3])
    (frame,) = running.until_frames(1)
    assert frame.problem is None
    assert frame.sha256 == hashlib.sha256(data).hexdigest()


def test_a_file_that_stays_incomplete_becomes_a_problem_and_holds_up_nothing(bench, png):
    running = bench.watch(incomplete_s=1.0)
    begin = time.monotonic()
    (bench.captures / "cut.png").write_bytes(png[:60])
    (bench.captures / "whole.png").write_bytes(png)
    first, second = running.until_frames(2)
    assert (first.name, second.name) == ("whole.png", "cut.png")
    assert second.problem is not None
    assert second.problem.code == "unreadable_image"
    assert second.sha256 == hashlib.sha256(png[:60]).hexdigest()
    assert 0.95 <= time.monotonic() - begin < 5.0


def test_a_truncated_file_that_is_completed_is_one_good_frame(bench, png):
    running = bench.watch(incomplete_s=30.0)
    path = bench.captures / "a.png"
    path.write_bytes(png[:60])
    running.until(lambda: running.health.counters().get("files_incomplete") == 1)
    with path.open("ab") as file:
        file.write(png[60:])
    (frame,) = running.until_frames(1)
    assert frame.problem is None


def test_a_preallocated_file_waits_for_its_end(bench, encode):
    data = encode("BMP", size=(200, 200), mode="RGB")
    running = bench.watch(incomplete_s=30.0, patterns=["*.bmp"])
    path = bench.captures / "a.bmp"
    path.write_bytes(data[:50_000] + bytes(len(data) - 50_000))
    running.until(lambda: running.health.counters().get("files_incomplete") == 1)
    path.write_bytes(data)
    (frame,) = running.until_frames(1)
    assert frame.sha256 == hashlib.sha256(data).hexdigest()


def test_a_file_that_ends_black_is_taken_as_it_is_in_the_end(bench, encode):
    running = bench.watch(incomplete_s=1.0, patterns=["*.bmp"])
    begin = time.monotonic()
    (bench.captures / "black.bmp").write_bytes(encode("BMP", level=0, size=(200, 200)))
    (fresh,) = running.until_frames(1)
    assert fresh.problem is None
    assert time.monotonic() - begin >= 0.95


def test_a_file_that_ends_black_and_was_there_long_before_does_not_wait(bench, encode):
    (bench.captures / "old.bmp").write_bytes(encode("BMP", level=0, size=(200, 200)))
    time.sleep(1.1)  # the change time cannot be set
    begin = time.monotonic()
    (old,) = bench.once(incomplete_s=1.0, patterns=["*.bmp"]).frames
    assert old.problem is None
    assert time.monotonic() - begin < 0.9


def test_a_file_that_gets_its_old_time_before_its_content_is_one_good_frame(bench, encode):
    """As robocopy does, and as Samba keeps it up while it writes: the time is that of the original, or 1980."""
    whole = encode("BMP", level=90, size=(200, 200))
    running = bench.watch(incomplete_s=2.0, patterns=["*.bmp", "*.png"])
    path = bench.captures / "copied.bmp"
    path.write_bytes(whole[:9000] + bytes(len(whole) - 9000))
    os.utime(path, (315619200,) * 2)
    running.until(lambda: running.counter("files_incomplete") > 0 or running.frames)
    assert running.frames == []
    path.write_bytes(whole)
    os.utime(path, (315619200,) * 2)
    (frame,) = running.until_frames(1)
    assert np.asarray(frame.picture.image).min() == 90


def test_renamed_into_place_is_one_frame_under_the_last_name(bench, png):
    running = bench.watch()
    (bench.captures / "a.png.part").write_bytes(png)
    os.rename(bench.captures / "a.png.part", bench.captures / "a.png")
    (bench.captures / ".b.png").write_bytes(png)
    os.rename(bench.captures / ".b.png", bench.captures / "b.png")
    running.until_frames(2)
    assert running.names() == ["a.png", "b.png"]


def test_a_hard_link_and_a_copy_are_frames_of_their_own(bench, png):
    running = bench.watch()
    aged(bench.captures / "a.png", png)
    os.link(bench.captures / "a.png", bench.captures / "b.png")
    aged(bench.captures / "c.png", png)
    running.until_frames(3)
    assert len({frame.key for frame in running.frames}) == 3
    assert len({frame.sha256 for frame in running.frames}) == 1


def test_a_name_that_is_written_again_is_a_new_frame(bench, png, encode):
    running = bench.watch()
    other = encode(level=10)
    (bench.captures / "latest.png").write_bytes(png)
    running.until_frames(1)
    (bench.captures / "latest.png").write_bytes(other)
    running.until_frames(2)
    os.rename(aged(bench.folder / "third.png", png), bench.captures / "latest.png")
    frames = running.until_frames(3)
    assert [frame.sha256 for frame in frames] == [hashlib.sha256(data).hexdigest() for data in (png, other, png)]


def test_a_file_that_was_away_while_another_had_its_name_is_no_new_frame(bench, png):
    path, aside = bench.captures / "a.png", bench.folder / "aside.png"
    running = bench.watch(incomplete_s=60.0)
    path.write_bytes(png)
    running.until_frames(1)
    os.rename(path, aside)
    path.write_bytes(png[:50])
    running.until(lambda: running.health.counters().get("files_incomplete") == 1)
    os.rename(aside, path)
    running.until(lambda: running.source.state()["waiting"] == 0)
    assert running.names() == ["a.png"]


def test_what_is_not_asked_for_is_left_alone(bench, png):
    for name in ("a.txt", ".a.png", "b.png.part", ".git/a.png", "c/.d/a.png"):
        aged(bench.captures / name, png)
    aged(bench.captures / "Good.JpG", png)
    running = bench.watch(patterns=["*.jpg", "*.png"])
    (bench.captures / ".new").mkdir()
    aged(bench.captures / ".new" / "a.png", png)
    (bench.captures / "last.png").write_bytes(png)
    running.until_frames(2)
    assert running.names() == ["Good.JpG", "last.png"]


def test_patterns_match_at_any_depth_and_ignore_case(bench, png):
    aged(bench.captures / "a" / "b" / "c" / "Weld_1.BMP", png)
    aged(bench.captures / "a" / "weld.png", png)
    assert bench.once(patterns=["weld_?.bmp"]).names() == ["a/b/c/Weld_1.BMP"]


def test_many_files_in_folders_created_at_that_moment(bench, png):
    """Most of them are written before their folder can be watched."""
    running = bench.watch(rescan_s=60.0)

    def fill(writer: int) -> None:
        for folder in range(10):
            deep = bench.captures / f"w{writer}" / f"part{folder}" / "cam"
            deep.mkdir(parents=True)
            for number in range(50):
                (deep / f"{number}.png").write_bytes(png)

    writers = [threading.Thread(target=fill, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    running.until_frames(2000)
    assert len(set(running.names())) == len(running.names()) == 2000


def test_the_tree_may_be_renamed_while_files_arrive(bench, png):
    running = bench.watch()
    (bench.captures / "now").mkdir()
    (bench.captures / "now" / "a.png").write_bytes(png)
    running.until_frames(1)
    os.rename(bench.captures / "now", bench.captures / "shift1")
    (bench.captures / "shift1" / "b.png").write_bytes(png)
    running.until_frames(3)  # a.png lies under a new path, which makes it another frame
    assert running.names() == ["now/a.png", "shift1/a.png", "shift1/b.png"]


def test_slow_writers_never_show_a_half_image(bench, encode):
    data = {f"{number}.png": encode(level=number, size=(64, 48 + number % 40)) for number in range(80)}
    running = bench.watch(settle_s=0.1, incomplete_s=20.0)
    write_in_chunks(bench.captures, data, (0.04,))
    running.until_frames(80)
    assert {frame.name: frame.sha256 for frame in running.frames} == {
        name: hashlib.sha256(content).hexdigest() for name, content in data.items()
    }
    assert len(running.frames) == 80
    assert not [frame for frame in running.frames if frame.problem]
