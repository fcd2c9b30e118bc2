"""A source over its life: folders that go and return, no events, stop and start, once, a ledger that stays small."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from agent.clock import SystemClock
from agent.frame import Frame
from agent.health import Health
from agent.sources import folder as folder_module
from agent.sources import linux, notes, presence, watch

pytestmark = pytest.mark.quiet


def aged(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (time.time() - 60,) * 2)
    return path


def lines_of(caplog, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


def test_constructing_opens_nothing_and_the_state_says_so(bench):
    source = folder_module.FolderSource(
        bench.config(path="/nowhere/at/all"), ZoneInfo("UTC"), bench.ledger, Health(), SystemClock()
    )
    assert source.state() == {
        "name": "captures", "type": "folder", "path": "/nowhere/at/all", "state": "starting", "offered": 0,
        "waiting": 0,
    }  # fmt: skip


def test_a_folder_that_is_missing_is_a_problem_until_it_is_there(bench, png, caplog):
    bench.captures.rmdir()
    running = bench.start()
    running.until_state("missing")
    assert "captures" in running.health.problems()["folder_missing:captures"]
    aged(bench.captures / "a.png", png)
    running.until_frames(1)
    running.until(lambda: not running.health.problems())
    (bench.captures / "b.png").write_bytes(png)
    running.until_frames(2)
    (line,) = lines_of(caplog, logging.ERROR)
    assert "folder_missing" in line  # the code that docs/operations.md explains


def test_a_folder_that_is_removed_and_made_again_is_watched_again(bench, png):
    aged(bench.captures / "a.png", png)
    running = bench.watch()
    running.until_frames(1)
    os.rename(bench.captures, bench.folder / "away")
    running.until_state("missing")
    bench.captures.mkdir()
    running.until_state("watching")
    (bench.captures / "b.png").write_bytes(png)
    running.until_frames(2)


def test_a_share_that_returns_is_not_inspected_again(bench, png):
    for number in range(20):
        aged(bench.captures / f"{number}.png", png)
    running = bench.watch(rescan_s=0.1)
    running.until_frames(20)
    share = bench.folder / "share"
    os.rename(bench.captures, share)
    running.until_state("missing")
    bench.captures.mkdir()  # the empty mount point
    running.until_state("watching")
    bench.captures.rmdir()
    os.rename(share, bench.captures)
    (bench.captures / "new.png").write_bytes(png)
    running.until_frames(21)
    assert running.names()[-1] == "new.png"
    assert len(running.frames) == 21


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EMFILE], ids=["no watches left", "no instances left"])
def test_without_inotify_the_folder_is_polled_and_the_remedy_named(bench, png, caplog, monkeypatch, code):
    call = "inotify_add_watch" if code == errno.ENOSPC else "inotify_init"
    really = getattr(linux, call)

    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(linux, call, refuse)
    running = bench.watch(rescan_s=0.2)
    running.until_state("polling")
    (bench.captures / "s").mkdir()
    (bench.captures / "s" / "a.png").write_bytes(png)
    running.until_frames(1)
    (line,) = [line for line in lines_of(caplog, logging.WARNING) if "cannot be watched" in line]
    assert "sysctl fs.inotify.max_user_" in line
    assert "folder_not_watched" in line
    assert "folder_not_watched:captures" in running.health.problems()
    monkeypatch.setattr(linux, call, really)
    running.until_state("watching")
    running.until(lambda: not running.health.problems())


def test_a_subfolder_that_cannot_be_watched_is_found_by_looking(bench, png, monkeypatch):
    really = linux.inotify_add_watch

    def only_the_root(fd: int, path: bytes, mask: int) -> int:
        if path.endswith(b"/s"):
            raise OSError(errno.ENOSPC, "limit reached")
        return really(fd, path, mask)

    monkeypatch.setattr(linux, "inotify_add_watch", only_the_root)
    (bench.captures / "s").mkdir()
    running = bench.watch(rescan_s=0.2)
    (bench.captures / "s" / "a.png").write_bytes(png)
    running.until_frames(1)
    assert "folder_not_watched:captures" in running.health.problems()


def test_a_network_mount_is_told_by_its_file_system(tmp_path, monkeypatch):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 254:0 / / rw - ext4 /dev/vda rw\n"
        "30 22 0:26 / /mnt/cap\\040tures rw,relatime shared:1 - cifs //nas/cam rw\n"
        "31 30 0:27 / /mnt/cap\\040tures/local rw - tmpfs tmpfs rw\n"
    )
    assert watch.is_remote(b"/mnt/cap tures/shift1", mounts)
    assert watch.is_remote(b"/mnt/cap tures", mounts)
    assert not watch.is_remote(b"/mnt/cap tures/local/x", mounts)
    assert not watch.is_remote(b"/mnt/cap tures-2", mounts)
    assert not watch.is_remote(b"/var/lib", mounts)
    assert not watch.is_remote(b"/var/lib", tmp_path / "no such file")


def test_on_a_network_mount_half_a_file_with_an_old_time_gets_its_patience(bench, png, monkeypatch, caplog):
    """The server's clock is behind: what is being written now looks a minute old."""
    monkeypatch.setattr(watch, "is_remote", lambda root: True)
    running = bench.watch(rescan_s=0.1, incomplete_s=30.0)
    assert running.source.state()["state"] == "polling"
    aged(bench.captures / "a.png", png[:50])
    running.until(lambda: running.health.counters().get("files_incomplete", 0) >= 1)
    aged(bench.captures / "a.png", png)
    (frame,) = running.until_frames(1)
    assert frame.problem is None
    assert len([line for line in lines_of(caplog, logging.WARNING) if "network mount" in line]) == 1


def test_lost_events_are_made_up_for_by_a_scan(bench, png, monkeypatch, caplog):
    really = watch.TreeWatch.read

    def deaf(self, timeout):
        heard = really(self, timeout)
        if heard.files:
            return watch.Heard(overflow=True)
        return heard

    monkeypatch.setattr(watch.TreeWatch, "read", deaf)
    running = bench.watch(rescan_s=60.0)
    for number in range(10):
        (bench.captures / f"{number}.png").write_bytes(png)
    running.until_frames(10)
    assert running.health.counters()["watch_overflow"] >= 1
    assert lines_of(caplog, logging.WARNING)


def test_what_arrives_unheard_is_found_by_the_rescan(bench, png, monkeypatch):
    monkeypatch.setattr(watch.TreeWatch, "read", lambda self, timeout: time.sleep(timeout) or watch.Heard())
    running = bench.watch(rescan_s=0.3)
    (bench.captures / "a.png").write_bytes(png)
    running.until_frames(1)


def test_stop_is_quick_and_lets_go_of_everything(bench, png):
    before = len(os.listdir("/proc/self/fd"))
    running = bench.watch(settle_s=60.0)
    (bench.captures / "a.png").write_bytes(png)
    running.until(lambda: running.source.state()["waiting"] == 1)
    assert running.stop() < 0.5
    assert running.source.state()["state"] == "stopped"
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_agent_that_wants_no_more_ends_the_run(bench, png):
    for number in range(5):
        aged(bench.captures / f"{number}.png", png)
    source = folder_module.FolderSource(bench.config(), ZoneInfo("UTC"), bench.ledger, Health(), SystemClock())
    taken: list[str] = []

    def offer(frame: Frame) -> bool:
        taken.append(frame.name)
        return len(taken) < 3

    source.run(offer, threading.Event())
    assert len(taken) == 3


def test_twenty_restarts_offer_each_file_once(bench, png):
    """Stopped anywhere; what was offered is in the ledger, as the agent's commit would have it."""
    offered: list[str] = []
    for round_ in range(20):
        for number in range(20):
            (bench.captures / f"{round_}_{number}.png").write_bytes(png)
        running = bench.start(settle_s=0.05)
        running.until_frames(5)
        running.stop()
        offered += running.names()
    last = bench.once(settle_s=0.05)
    offered += last.names()
    assert len(offered) == len(set(offered)) == 400


def test_once_takes_what_is_there_and_waits_for_what_settles(bench, png):
    aged(bench.captures / "old.png", png)
    (bench.captures / "fresh.png").write_bytes(png)
    (bench.captures / "cut.png").write_bytes(png[:50])
    begin = time.monotonic()
    running = bench.once(settle_s=0.3, incomplete_s=0.8)
    assert [frame.name for frame in running.frames] == ["old.png", "fresh.png", "cut.png"]
    assert 0.75 < time.monotonic() - begin < 10


def test_once_on_a_missing_folder_ends_and_says_so(bench):
    running = bench.once(path=str(bench.folder / "nowhere"))
    assert running.frames == []
    assert "folder_missing:captures" in running.health.problems()


@pytest.mark.parametrize("once", [True, False])
def test_more_files_than_fit_in_waiting_come_all_the_same(bench, png, monkeypatch, once):
    monkeypatch.setattr(folder_module, "WINDOW", 50)
    monkeypatch.setattr(folder_module, "BATCH", 7)
    for number in range(333):
        aged(bench.captures / f"s{number % 5}" / f"{number}.png", png)
    running = bench.once() if once else bench.start(rescan_s=60.0)
    running.until_frames(333)
    assert len(set(running.names())) == 333


def test_what_is_not_committed_yet_is_not_offered_twice(bench, png, monkeypatch):
    """While a frame waits in the queue its file is met by scans, and events."""
    monkeypatch.setattr(bench.ledger, "seen", lambda keys: set())
    running = bench.watch(rescan_s=0.1)
    path = aged(bench.captures / "a.png", png)
    running.until_frames(1)
    os.close(os.open(path, os.O_WRONLY))  # closed by a writer who changed nothing
    for number in range(5):
        (bench.captures / f"{number}.png").write_bytes(png)
        running.until_frames(2 + number)
    assert len(set(running.names())) == 6


def test_a_rescan_asks_the_ledger_nothing_about_what_is_done(bench, png, monkeypatch):
    for number in range(30):
        aged(bench.captures / f"{number}.png", png)
    running = bench.watch(rescan_s=0.1)
    running.until_frames(30)
    asked: list[bytes] = []
    really = bench.ledger.seen
    monkeypatch.setattr(bench.ledger, "seen", lambda keys: asked.extend(keys) or really(keys))
    for number in range(3):
        (bench.captures / f"new{number}.png").write_bytes(png)
        running.until_frames(31 + number)
    assert len(set(asked)) <= 2 * 3  # the new ones only, as they were first seen and as they settled


def test_what_the_ledger_has_is_not_even_read(bench, png, monkeypatch):
    for number in range(30):
        aged(bench.captures / f"{number}.png", png)
    bench.once()
    monkeypatch.setattr(folder_module.Intake, "read", None)
    assert bench.once().frames == []


def test_a_quiet_source_costs_next_to_nothing(bench, png):
    for number in range(200):
        aged(bench.captures / f"{number}.png", png)
    running = bench.watch(rescan_s=60.0)
    running.until_frames(200)
    begin = time.process_time()
    time.sleep(1.0)  # the span that is measured
    assert time.process_time() - begin < 0.1


def test_the_ledger_of_a_running_source_stays_small(bench, png, monkeypatch):
    monkeypatch.setattr(presence, "FORGET_S", 0.2)
    for number in range(10):
        aged(bench.captures / f"{number}.png", png)
    running = bench.watch(rescan_s=0.1)
    running.until_frames(10)
    for number in range(9):
        (bench.captures / f"{number}.png").unlink()
    running.until(lambda: len(bench.ledger.keys) == 1)
    (bench.captures / "9.png").touch()  # another modification time: a new frame
    running.until_frames(11)


def test_a_flood_of_odd_entries_is_no_flood_of_lines(bench, png, monkeypatch, caplog):
    monkeypatch.setattr(notes, "LIMIT", 5)
    for number in range(50):
        os.mkfifo(bench.captures / f"{number}.png")
    aged(bench.captures / "last.png", png)
    running = bench.watch(rescan_s=0.1)
    running.until_frames(1)
    (bench.captures / "next.png").write_bytes(png)
    running.until_frames(2)
    assert len([line for line in lines_of(caplog, logging.WARNING) if "FIFO" in line]) == 5
    assert running.health.counters()["odd_entries"] == 6
