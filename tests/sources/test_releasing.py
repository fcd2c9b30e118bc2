"""Files are let go beside inspection: targets that are full, that hang, and faults of ours."""

from __future__ import annotations

import errno
import os
import threading
import time

import pytest

from agent.sources import moving, releasing
from tests.sources.test_disposal import aged, tree


def test_a_target_that_is_full_is_not_tried_for_every_file_at_every_scan(bench, png, monkeypatch):
    monkeypatch.setattr(releasing, "TRIES", 3)
    bench.archive.write_bytes(b"a file where the archive should be")
    for number in range(40):
        aged(bench.captures / f"{number}.png", png)
    running = bench.start(after="archive", archive=str(bench.archive), rescan_s=60.0)
    running.until_frames(40)
    running.until(lambda: running.counter("release_failed") == 3)
    running.source._next_scan = 0.0
    running.until(lambda: running.counter("release_failed") == 6)
    bench.archive.unlink()
    running.source._next_scan = 0.0
    running.until(lambda: len(tree(bench.archive)) == 40)
    running.until(lambda: not running.health.problems())
    assert len(running.frames) == 40
    assert tree(bench.captures) == {}


def test_files_that_nobody_can_move_keep_no_others_back(bench, png, monkeypatch):
    monkeypatch.setattr(releasing, "TRIES", 3)
    really = moving.move

    def move(name, *where, **how):
        if name.startswith(b"odd"):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return really(name, *where, **how)

    monkeypatch.setattr(moving, "move", move)
    for number in range(7):
        aged(bench.captures / f"odd{number}.png", png)
    running = bench.start(after="archive", archive=str(bench.archive), rescan_s=0.1)
    running.until(lambda: running.counter("release_failed") >= 3)
    for number in range(5):  # a scan meets what lies in folders below after what lies above them
        aged(bench.captures / "below" / f"{number}.png", png)
    running.until(lambda: len(tree(bench.archive)) == 5)
    assert len(running.frames) == 12
    assert "release_failed:captures" in running.health.problems()


@pytest.fixture
def hanging(monkeypatch):
    """A target that neither takes nor refuses, as a share whose server is gone, until the event is set."""
    answers, move, asked = threading.Event(), moving.move, threading.Semaphore(0)

    def hang(*where, **how):
        asked.release()
        assert answers.wait(60.0)
        return move(*where, **how)

    monkeypatch.setattr(moving, "move", hang)
    yield answers, asked
    answers.set()


def test_a_target_that_hangs_holds_up_no_inspection(bench, png, monkeypatch, hanging):
    """What finds no room in the queue waits for a rescan; nothing is inspected twice, all is archived in the end."""
    answers, asked = hanging
    monkeypatch.setattr(releasing, "QUEUE", 5)
    monkeypatch.setattr(releasing, "HANGS_S", 0.1)
    running = bench.watch(after="archive", archive=str(bench.archive), rescan_s=0.1)
    aged(bench.captures / "first.png", png)
    assert asked.acquire(timeout=30.0)
    for number in range(40):
        aged(bench.captures / f"{number}.png", png)
    running.until_frames(41)
    running.until(lambda: "no answer" in running.health.problems().get("release_failed:captures", ""))
    assert len(tree(bench.captures)) == 41
    answers.set()
    running.until(lambda: len(tree(bench.archive)) == 41)
    running.until(lambda: not running.health.problems())
    assert len(running.frames) == 41


def test_once_lets_go_of_all_however_short_the_queue(bench, png, monkeypatch):
    monkeypatch.setattr(releasing, "QUEUE", 5)
    for number in range(200):
        aged(bench.captures / f"{number}.png", png)
    bench.once(after="archive", archive=str(bench.archive))
    assert (len(tree(bench.archive)), tree(bench.captures)) == (200, {})


def test_a_fault_of_ours_ends_neither_the_thread_nor_the_release(bench, png, monkeypatch, caplog):
    really, faults = moving.move, [ZeroDivisionError("what nobody thought of")]

    def fails_once(*where, **how):
        if faults:
            raise faults.pop()
        return really(*where, **how)

    monkeypatch.setattr(moving, "move", fails_once)
    running = bench.watch(after="archive", archive=str(bench.archive), rescan_s=0.1)
    aged(bench.captures / "a.png", png)
    running.until(lambda: tree(bench.folder) == {"archive/a.png": png})
    running.until(lambda: not running.health.problems())
    assert any(record.exc_info and "please report it" in record.getMessage() for record in caplog.records)


@pytest.mark.quiet
def test_a_target_that_hangs_makes_no_stop_long(bench, png, hanging, caplog):
    answers, asked = hanging
    aged(bench.captures / "a.png", png)
    running = bench.start(after="archive", archive=str(bench.archive))
    running.until_frames(1)
    assert asked.acquire(timeout=30.0)
    begin = time.monotonic()
    running.source.close(0.1)
    assert time.monotonic() - begin < 2.0
    assert any("the next start does it" in message for message in caplog.messages)
    answers.set()
    running.stop()
    assert tree(bench.folder) == {"archive/a.png": png}


def test_what_is_left_and_goes_by_itself_is_forgotten(bench, png):
    bench.archive.write_bytes(b"a file where the archive should be")
    running = bench.watch(after="archive", archive=str(bench.archive), rescan_s=0.1)
    path = aged(bench.captures / "a.png", png)
    running.until(lambda: "release_failed:captures" in running.health.problems())
    path.unlink()
    running.until(lambda: not running.health.problems())
