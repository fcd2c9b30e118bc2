"""What a capture folder should not hold, and will: nothing stops, nothing blocks, each is a frame or one line."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import time
from datetime import timezone
from pathlib import Path

import pytest
from PIL import Image

from agent.clock import SystemClock
from agent.health import Health
from agent.sources import intake, scan
from agent.sources.files import signature_of
from agent.sources.identity import Names


def aged(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (time.time() - 60,) * 2)
    return path


def warnings_of(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def make_odd(folder: Path, outside: Path, png: bytes) -> None:
    aged(outside / "secret.png", png)
    os.symlink(outside / "secret.png", folder / "link.png")
    os.symlink(outside, folder / "linked-folder")
    os.symlink("nowhere", folder / "dangling.png")
    os.symlink("loop.png", folder / "loop.png")
    os.mkfifo(folder / "fifo.png")
    (folder / "folder.png").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(folder)  # a socket's name is short
        try:
            server.bind("socket.png")
        finally:
            os.chdir(here)


def test_links_that_lead_nowhere_cost_no_other_file(bench, png):
    """Under names that no pattern matches: what such a link leads to cannot even be looked at."""
    names = [f"{number:02d}.png" for number in range(20)]
    for name in names:
        aged(bench.captures / name, png)
        os.symlink(f"circle-{name}.lnk", bench.captures / f"circle-{name}.lnk")
        os.symlink("x" * 300, bench.captures / f"long-{name}.lnk")
    running = bench.once()
    assert sorted(frame.name for frame in running.frames) == names
    assert running.health.problems() == {}


def test_an_entry_that_cannot_be_looked_at_is_a_problem_and_costs_no_other(bench, png):
    """As a stale handle on a share does."""

    class Entry:
        def __init__(self, entry):
            self._entry, self.name = entry, entry.name

        def __getattr__(self, name):
            return getattr(self._entry, name)

        def stat(self, **_):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    folder = bench.captures
    for name in ("a.png", "bad.png", "z.png"):
        aged(folder / name, png)
    found = scan.Scan(os.fsencode(folder), scan.Patterns(["*.png"]), *[lambda *_: None] * 3)
    with os.scandir(folder) as entries:
        odd_first = sorted(entries, key=lambda entry: entry.name != "bad.png")
    looked = [Entry(entry) if entry.name == "bad.png" else entry for entry in odd_first]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", lambda _: contextlib.nullcontext(looked))
        assert sorted(path for path, _ in found.walk()) == [b"a.png", b"z.png"]
    assert [(path, error.errno) for path, error in found.errors] == [(b"bad.png", errno.ESTALE)]


@pytest.mark.parametrize("before", [True, False], ids=["there before", "arriving"])
def test_links_fifos_sockets_and_folders(bench, png, caplog, before):
    if not before:
        running = bench.watch(rescan_s=0.2)
    make_odd(bench.captures, bench.folder / "outside", png)
    aged(bench.captures / "folder.png" / "inside.png", png)
    aged(bench.captures / "good.png", png)
    if before:
        running = bench.watch(rescan_s=0.2)
    running.until_frames(2)
    running.until(lambda: running.health.counters().get("odd_entries", 0) >= 7)
    assert running.names() == ["folder.png/inside.png", "good.png"]
    said = warnings_of(caplog)
    for name in ("link.png", "linked-folder", "dangling.png", "loop.png", "fifo.png", "socket.png", "folder.png"):
        assert sum(f": {name}: " in line for line in said) == 1, (name, said)
    running.until(lambda: running.health.counters()["odd_entries"] == 7)


NAMES = {
    "newline": b"new\nline.png",
    "control": b"bell\x07\x1b[31m.png",
    "not UTF-8": b"caf\xe9\xff.png",
    "markup": b"<script>alert(1)<script>.png",
    "255 bytes": b"n" * 251 + b".png",
    "255 bytes of two": "ä".encode() * 125 + b"a.png",
    "blanks": b" .png",
    "quotes": b"a'\"$(reboot)`.png",
    "backslash": b"up\\..\\..\\x.png",
    "percent": b"%2e%2e%n%s.png",
    "emoji": "🔥".encode() + b".PNG",
    "only suffixes": b"a.png.png",
}


def test_hostile_names_are_frames_and_can_be_archived(bench, png):
    deep = os.fsencode(bench.captures) + b"/" + b"/".join([b"d\xff" * 60] * 8)
    os.makedirs(deep)
    for folder in (os.fsencode(bench.captures), deep):
        for name in NAMES.values():
            with open(os.path.join(folder, name), "wb") as file:
                file.write(png)
    running = bench.start(after="archive", archive=str(bench.archive))
    running.until_frames(2 * len(NAMES))
    names = running.names()
    assert "caf\\xe9\\xff.png" in names
    assert "new\nline.png" in names
    assert all(name.encode() for name in names)
    running.until(lambda: not any(files for _, _, files in os.walk(os.fsencode(bench.captures))))
    archived = [name for _, _, files in os.walk(os.fsencode(bench.archive)) for name in files]
    assert sorted(archived) == sorted(2 * list(NAMES.values()))


def test_an_empty_file_is_a_problem_in_the_end(bench):
    bench.watch(incomplete_s=0.3)
    (bench.captures / "empty.png").touch()
    (frame,) = bench.running[-1].until_frames(1)
    assert (frame.problem.code, frame.bytes) == ("unreadable_image", 0)


def test_a_picture_that_is_too_large_is_a_problem_at_once(bench, encode):
    running = bench.watch(incomplete_s=1000.0)
    header = encode("PPM").replace(b"24 16", b"20000 20000")
    (bench.captures / "bomb.pgm").write_bytes(header)
    running.stop()
    running = bench.watch(incomplete_s=1000.0, patterns=["*.pgm"])
    (frame,) = running.until_frames(1)
    assert frame.problem.code == "image_too_large"


def test_a_file_that_is_too_large_is_not_read(bench, png, monkeypatch):
    monkeypatch.setattr(intake, "MAX_BYTES", len(png) - 1)
    aged(bench.captures / "a.png", png)
    (frame,) = bench.once().frames
    assert (frame.problem.code, frame.sha256, frame.bytes) == ("file_too_large", None, len(png))


def test_another_format_under_an_images_name(bench):
    aged(bench.captures / "a.png", b"%PDF-1.7 and so on")
    aged(bench.captures / "b.jpg", b"GIF89a" + bytes(100))
    assert {frame.problem.code for frame in bench.once().frames} == {"unsupported_format"}


def unreadable(monkeypatch, name: bytes) -> dict[str, bool]:
    """open(2) of this name is refused, for root as well, until ``["refused"]`` is made False."""
    state, really = {"refused": True}, os.open

    def refuse(path, flags, mode=0o777, *, dir_fd=None):
        if state["refused"] and path == name:
            raise PermissionError(13, "Permission denied")
        return really(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refuse)
    return state


def test_a_file_without_permission_is_tried_again_and_then_a_problem(bench, png, monkeypatch):
    unreadable(monkeypatch, b"locked.png")
    aged(bench.captures / "locked.png", png)
    aged(bench.captures / "open.png", png)
    running = bench.start(incomplete_s=1.2)
    begin = time.monotonic()
    first, second = running.until_frames(2)
    assert time.monotonic() - begin > 0.9
    assert (first.name, second.name) == ("open.png", "locked.png")
    assert (second.problem.code, second.sha256) == ("unreadable_file", None)


def test_a_file_whose_permission_comes_late_is_a_good_frame(bench, png, monkeypatch):
    state = unreadable(monkeypatch, b"locked.png")
    aged(bench.captures / "locked.png", png)
    running = bench.start(incomplete_s=60.0)
    running.until(lambda: running.health.counters().get("files_incomplete", 0) >= 1)
    state["refused"] = False
    (frame,) = running.until_frames(1)
    assert frame.problem is None


def test_a_folder_without_permission_is_a_problem_and_the_others_go_on(bench, png, monkeypatch, caplog):
    state = unreadable(monkeypatch, b"locked")
    aged(bench.captures / "locked" / "a.png", png)
    aged(bench.captures / "open" / "b.png", png)
    running = bench.start(rescan_s=0.2)
    running.until_frames(1)
    assert "locked: Permission denied" in running.health.problems()["folder_unreadable:captures"]
    assert any("folder_unreadable: locked: Permission denied" in line for line in warnings_of(caplog))
    state["refused"] = False
    running.until_frames(2)
    running.until(lambda: not running.health.problems())


def test_without_file_descriptors_the_file_waits(bench, png, monkeypatch, caplog):
    really, state = os.open, {"left": 3}

    def short(path, flags, mode=0o777, *, dir_fd=None):
        if path == b"a.png" and state["left"]:
            state["left"] -= 1
            raise OSError(24, "Too many open files")
        return really(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", short)
    aged(bench.captures / "a.png", png)
    running = bench.start(incomplete_s=0.1)
    (frame,) = running.until_frames(1)
    assert frame.problem is None
    assert not running.health.problems()
    assert any("folder_out_of_means" in line for line in warnings_of(caplog))


def test_without_file_descriptors_for_its_sidecar_the_image_waits(bench, png, monkeypatch):
    really, state = os.open, {"left": 2}

    def short(path, flags, mode=0o777, *, dir_fd=None):
        if path == b"a.png.json" and state["left"]:
            state["left"] -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return really(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", short)
    (bench.captures / "a.png.json").write_bytes(b'{"part_id": "A17"}')
    aged(bench.captures / "a.png", png)
    running = bench.start()
    (frame,) = running.until_frames(1)
    assert (frame.identity.part_id, state["left"]) == ("A17", 0)
    assert running.counter("sidecar_bad") == 0


def test_a_file_that_changes_while_it_is_read_is_read_again(bench, png, encode, monkeypatch):
    other = encode(level=3)
    path = aged(bench.captures / "a.png", png)
    really, state = intake.files.read_exactly, {"first": True}

    def rewritten_meanwhile(fd, size):
        data = really(fd, size)
        if state.pop("first", False):
            path.write_bytes(other)
        return data

    monkeypatch.setattr(intake.files, "read_exactly", rewritten_meanwhile)
    (frame,) = bench.once().frames
    assert frame.problem is None
    assert frame.picture.image.getpixel((0, 0)) == 3


def test_a_file_that_vanishes_while_it_waits_is_no_error(bench, png):
    running = bench.watch(settle_s=0.3)
    (bench.captures / "gone.png").write_bytes(png)
    running.until(lambda: running.source.state()["waiting"] == 1)
    (bench.captures / "gone.png").unlink()
    (bench.captures / "stays.png").write_bytes(png)
    running.until_frames(1)
    running.until(lambda: running.source.state()["waiting"] == 0)
    assert running.names() == ["stays.png"]
    assert not running.health.problems()


def test_a_fault_of_ours_with_one_file_is_that_files_result(bench, png, encode, monkeypatch, caplog):
    odd, really = encode(level=7), intake.decode

    def decode(data):
        if data == odd:
            raise RuntimeError("what nobody\nthought of")
        return really(data)

    monkeypatch.setattr(intake, "decode", decode)
    aged(bench.captures / "a.png", odd)
    aged(bench.captures / "b.png", png)
    failed, good = sorted(bench.once().frames, key=lambda frame: frame.name)
    assert (failed.problem.code, good.problem) == ("inspection_failed", None)
    assert failed.problem.detail == "RuntimeError: what nobody thought of"
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "inspection_failed: a.png" in record.getMessage()
    assert record.exc_info is not None


def test_without_memory_the_file_waits(bench, png, monkeypatch):
    really, left = intake.files.read_exactly, [1, 1]

    def short(fd, size):
        if left:
            left.pop()
            raise MemoryError
        return really(fd, size)

    monkeypatch.setattr(intake.files, "read_exactly", short)
    aged(bench.captures / "a.png", png)
    (frame,) = bench.start(incomplete_s=0.1).until_frames(1)
    assert frame.problem is None


def test_an_exif_time_without_a_place_in_the_calendar_costs_no_frame(bench, encode):
    exif = Image.Exif()
    exif.get_ifd(0x8769).update({0x9003: "9999:12:31 23:59:59", 0x9011: "-12:00"})
    aged(bench.captures / "a.jpg", encode("JPEG", exif=exif))
    (frame,) = bench.once().frames
    assert (frame.problem, frame.captured_from) == (None, "mtime")


def test_bad_sidecars_cost_the_ids_and_not_the_frame(bench, png, caplog):
    aged(bench.captures / "a.png", png)
    aged(bench.captures / "a.png.json", b"{")
    aged(bench.captures / "b.png", png)
    os.mkfifo(bench.captures / "b.json")
    aged(bench.captures / "c.png", png)
    aged(bench.captures / "c.json", b" " * 70_000)
    aged(bench.captures / "d.png", png)
    aged(bench.captures / "d.json", b'{"part_id": "D"}')
    running = bench.once(name_pattern=r"(?P<part_id>x\d)")
    assert {frame.name: frame.identity.part_id for frame in running.frames} == {
        "a.png": None, "b.png": None, "c.png": None, "d.png": "D",
    }  # fmt: skip
    counters = running.health.counters()
    assert (counters["sidecar_bad"], counters["identity_unknown"]) == (3, 3)
    assert len([line for line in warnings_of(caplog) if "sidecar" in line]) == 3


def test_a_file_that_became_a_link_at_the_last_moment_is_not_read(bench, png):
    """What the link points to has the very signature that was seen."""
    target = aged(bench.folder / "outside.png", png)
    os.symlink(target, bench.captures / "a.png")
    names = Names(None, timezone.utc)
    taking = intake.Intake("captures", os.fsencode(bench.captures), names, Health(), SystemClock(), lambda *_: None)
    assert isinstance(taking.read(b"a.png", signature_of(target.stat())), intake.NotAFile)
    assert isinstance(taking.read(b"gone.png", signature_of(target.stat())), intake.Gone)
