"""Results on disk: one file and one line each, whole or not at all, whatever happens in between."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.delivery import file_names, json_files
from agent.errors import RejectError, RetryError
from tests.support.results import stored
from tests.support.results_folder import DAY, files, ids, lines, sink

NAME = "A17_20261122T102205141Z"


def test_each_result_is_a_file_and_a_line(tmp_path: Path) -> None:
    batch = [stored(1, "s/A17.png"), stored(2, "B\\xff.png"), stored(3, "C.png", "2026-11-23T00:00:00.000Z")]
    assert sink(tmp_path / "results").deliver(batch) == 3
    folder = tmp_path / "results"
    assert files(folder) == {
        f"{DAY}/{NAME}.json": batch[0].result_id,
        f"{DAY}/B%FF_20261122T102205141Z.json": batch[1].result_id,
        "2026-11-23/C_20261123T000000000Z.json": batch[2].result_id,
    }
    assert lines(folder) == ids(batch[:2])
    assert lines(folder, "2026-11-23") == ids(batch[2:])
    assert (folder / DAY / f"{NAME}.json").read_bytes() == batch[0].body + b"\n"


@pytest.mark.parametrize(("per_image", "daily_log"), [(True, False), (False, True)])
def test_either_can_be_switched_off(tmp_path: Path, per_image: bool, daily_log: bool) -> None:
    assert sink(tmp_path, per_image=per_image, daily_log=daily_log).deliver([stored(1)]) == 1
    assert (len(files(tmp_path)), (tmp_path / f"{DAY}.jsonl").exists()) == (per_image, daily_log)


def test_a_taken_name_gets_a_suffix_and_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / DAY).mkdir()
    (tmp_path / DAY / f"{NAME}.json").write_text('{"result_id": "somebody else\'s"}')
    (tmp_path / DAY / f"{NAME}_1.json").mkdir()
    batch = [stored(1), stored(2)]
    sink(tmp_path).deliver(batch)
    (tmp_path / DAY / f"{NAME}_1.json").rmdir()
    assert files(tmp_path) == {
        f"{DAY}/{NAME}.json": "somebody else's",
        f"{DAY}/{NAME}_2.json": batch[0].result_id,
        f"{DAY}/{NAME}_3.json": batch[1].result_id,
    }


class Killed(BaseException):
    """Stands for a SIGKILL: nothing of ours runs after it."""


@given(
    kills=st.lists(st.integers(0, 60), max_size=6),
    batches=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    names=st.lists(st.sampled_from(["A.png", "B.png"]), min_size=20, max_size=20),
    lost_cursor=st.integers(0, 20),
)
@settings(max_examples=40)
def test_one_file_and_one_line_each_however_often_it_is_killed(
    tmp_path_factory: pytest.TempPathFactory, kills: list[int], batches: list[int], names: list[str], lost_cursor: int
) -> None:
    """Killed before any call into the operating system; the cursor may be lost as well, back to any place."""
    folder = tmp_path_factory.mktemp("results")
    all_of_them = [stored(n + 1, names[n]) for n in range(sum(batches))]
    cursor, planned = 0, iter(kills)
    with pytest.MonkeyPatch.context() as patch:
        countdown = _kill_at(patch)
        while cursor < len(all_of_them):
            countdown[0] = next(planned, 10**9)
            try:
                agent = sink(folder)
                while cursor < len(all_of_them):
                    cursor += agent.deliver(all_of_them[cursor : cursor + batches[cursor % len(batches)]])
            except Killed:
                cursor = min(cursor, lost_cursor)
    assert Counter(files(folder).values()) == Counter(ids(all_of_them))
    assert lines(folder) == ids(all_of_them)
    assert not list(folder.glob("*/.*")), "no temporary file is left"


def _kill_at(patch: pytest.MonkeyPatch) -> list[int]:
    """The process dies at the n-th call that changes the disk (an append may be half done by then)."""
    countdown = [10**9]

    def deadly(real: Any, *, torn: bool = False) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            countdown[0] -= 1
            if countdown[0] == 0:
                if torn:
                    real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                raise Killed
            if countdown[0] < 0:
                raise Killed  # a dead process does nothing more: no clean-up either
            return real(*arguments, **named)

        return call

    patch.setattr(file_names.os, "write", deadly(os.write, torn=True))
    for name in ("link", "fsync", "ftruncate"):
        patch.setattr(file_names.os, name, deadly(getattr(os, name)))
    for name in ("unlink", "mkdir"):
        patch.setattr(Path, name, deadly(getattr(Path, name)))
    patch.setattr(json_files, "sync_file_system", deadly(json_files.sync_file_system))
    return countdown


def test_a_full_disk_shows_no_half_file_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = [stored(n, f"{n}.png") for n in range(1, 9)]
    agent, real, room = sink(tmp_path), os.write, [0]

    def write(descriptor: int, data: memoryview) -> int:
        if room[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = real(descriptor, data[: room[0]])
        room[0] -= taken
        return taken

    monkeypatch.setattr(file_names.os, "write", write)
    with pytest.raises(RetryError, match="the disk is full"):
        agent.deliver(batch)
    assert files(tmp_path) == {}
    size = len(batch[0].body) + 1
    room[0] = int(2.5 * size)
    with pytest.raises(RetryError):
        agent.deliver(batch)  # two files, and no space for their lines
    assert (len(files(tmp_path)), lines(tmp_path)) == (2, [])
    room[0] = int(8.5 * size)
    with pytest.raises(RetryError):
        agent.deliver(batch)  # all files, and the first line breaks off
    assert (len(files(tmp_path)), lines(tmp_path)) == (8, [])
    room[0] = 10**9
    assert agent.deliver(batch) == 8
    assert list(files(tmp_path).values()) == lines(tmp_path) == ids(batch)
    assert all(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links_serves_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def link(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(file_names.os, "link", link)
    batch = [stored(1), stored(2)]
    assert sink(tmp_path).deliver(batch) == 2
    assert sink(tmp_path).deliver(batch) == 2
    assert Counter(files(tmp_path).values()) == Counter(ids(batch))


def test_a_name_that_the_file_system_never_takes_is_rejected_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(_: object, final: Path) -> None:
        raise OSError(errno.ENAMETOOLONG, "File name too long", str(final))

    monkeypatch.setattr(file_names.os, "link", link)
    with pytest.raises(RejectError, match=r"A17_2026.*does not take this name"):
        sink(tmp_path).deliver([stored(1)])


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_file_system_that_syncs_no_folders_serves_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(file_names.os, "fsync", fsync)
    batch = [stored(n, f"{n}.png") for n in range(1, 9)]
    assert sink(tmp_path).deliver(batch) == 8
    assert lines(tmp_path) == ids(batch)


@pytest.mark.parametrize("call", ["fsync", "open"])
@pytest.mark.parametrize("number", [errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.EIO])
def test_trouble_with_folder_or_log_is_never_blamed_on_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """A dead letter would be wrong twice: the file is written, and the next result has the same trouble."""
    agent, batch = sink(tmp_path), [stored(n, f"{n}.png") for n in range(1, 3)]
    real = getattr(os, call)

    def trouble(what: Any, *rest: Any) -> Any:
        path = what if call == "open" else str(Path(f"/proc/self/fd/{what}").readlink())
        if str(path).endswith(".jsonl"):
            raise OSError(number, os.strerror(number), str(path))
        return real(what, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(file_names.os, call, trouble)
        with pytest.raises(RetryError):
            agent.deliver(batch)
    assert agent.deliver(batch) == 2
    assert list(files(tmp_path).values()) == lines(tmp_path) == ids(batch)


def test_a_name_that_fat_does_not_take_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No hard links there, and EINVAL for a colon: tried again it would hold up all that follows."""
    real = Path.rename

    def link(_: object, final: Path) -> None:
        raise OSError(errno.EINVAL, "Invalid argument", str(final))

    def rename(self: Path, target: Path) -> Path:
        if ":" in target.name:
            raise OSError(errno.EINVAL, "Invalid argument", str(self))
        return real(self, target)

    monkeypatch.setattr(file_names.os, "link", link)
    monkeypatch.setattr(Path, "rename", rename)
    agent, batch = sink(tmp_path), [stored(1), stored(2, "B:2.png"), stored(3, "C.png")]
    assert agent.deliver(batch) == 1
    with pytest.raises(RejectError, match=r"B:2_2026.*does not take this name"):
        agent.deliver(batch[1:])
    assert agent.deliver(batch[2:]) == 1


def test_a_results_folder_in_the_way_is_one_line_and_kept(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file where the folder should be")
    with pytest.raises(RetryError, match="check the results folder"):
        sink(tmp_path / "results").deliver([stored(1)])


def test_a_batch_shares_the_syncs_of_folder_and_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = sink(tmp_path)
    agent.deliver([stored(1)])
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real(descriptor)

    monkeypatch.setattr(file_names.os, "fsync", fsync)
    monkeypatch.setattr(json_files, "sync_file_system", lambda folder: synced.append(f"all of {folder}"))
    folder_and_log = [str(tmp_path / DAY), str(tmp_path / f"{DAY}.jsonl")]
    agent.deliver([stored(n, f"{n}.png") for n in range(2, 102)])
    assert synced == [f"all of {tmp_path}", *folder_and_log]
    synced.clear()
    few = [stored(n, f"{n}.png") for n in range(102, 104)]
    agent.deliver(few)
    assert synced == [*(str(tmp_path / DAY / f".{one.result_id}.tmp") for one in few), *folder_and_log]
