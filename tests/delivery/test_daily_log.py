"""The daily log: one line a result, whoever was at the file in between."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from agent.delivery import file_names
from tests.support.results import CREATED, stored
from tests.support.results_folder import DAY, files, ids, lines, sink


@pytest.mark.parametrize("torn", [b"{", b'{"schema": "weldwatch.result/1", "result_id": "0193', b"\x00" * 200])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    batch = [stored(n) for n in range(1, 4)]
    sink(tmp_path).deliver(batch[:2])
    with (tmp_path / f"{DAY}.jsonl").open("ab") as log:
        log.write(torn)
    sink(tmp_path).deliver(batch[2:])
    assert lines(tmp_path) == ids(batch)


def test_a_whole_last_line_without_its_newline_is_kept(tmp_path: Path) -> None:
    batch = [stored(n) for n in range(1, 4)]
    sink(tmp_path).deliver(batch[:2])
    log = tmp_path / f"{DAY}.jsonl"
    log.write_bytes(log.read_bytes().rstrip(b"\n"))  # as an editor leaves it
    sink(tmp_path).deliver(batch[1:])
    assert lines(tmp_path) == ids(batch)


def test_a_log_changed_or_removed_by_somebody_is_looked_at_again(tmp_path: Path) -> None:
    batch = [stored(n) for n in range(1, 6)]
    agent, log = sink(tmp_path), tmp_path / f"{DAY}.jsonl"
    agent.deliver(batch[:2])
    with log.open("ab") as file:
        file.write(b"a technician's remark\n")
    agent.deliver(batch[1:4])
    assert [line[:1] for line in log.read_bytes().splitlines()] == [b"{", b"{", b"a", b"{", b"{"]
    log.unlink()
    agent.deliver(batch[4:])
    assert lines(tmp_path) == ids(batch[4:])


def test_another_ledger_counts_for_itself(tmp_path: Path) -> None:
    old, new = [stored(n, ledger_id="old") for n in (7, 8)], [stored(n, ledger_id="new") for n in (1, 2)]
    sink(tmp_path).deliver(old)
    sink(tmp_path).deliver(new)
    sink(tmp_path).deliver(old[1:])  # the old one was brought back
    assert lines(tmp_path) == ids([*old, *new])


def test_sequences_given_again_to_other_results_have_their_lines(tmp_path: Path) -> None:
    """The state folder was restored from a snapshot made after 3; the results folder was kept."""
    before = [stored(n, pad=30_000) for n in range(1, 7)]  # the log is read back in more than one piece
    sink(tmp_path).deliver(before)
    after = [*before[1:3], *(stored(n) for n in range(4, 10))]
    agent = sink(tmp_path)
    for start in range(0, len(after), 2):  # batches below, across and beyond the last sequence of before
        agent.deliver(after[start : start + 2])
        agent.deliver(after[start : start + 2])
    assert lines(tmp_path) == ids([*before, *after[2:]])
    sink(tmp_path).deliver(after[3:])
    assert lines(tmp_path) == ids([*before, *after[2:]])
    assert Counter(files(tmp_path).values()) == Counter(lines(tmp_path))


def test_a_log_is_repeated_from_its_beginning_in_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = [stored(n, pad=1000) for n in range(1, 201)]
    sink(tmp_path, per_image=False).deliver(batch)
    size = (tmp_path / f"{DAY}.jsonl").stat().st_size
    read, real = [0], os.pread

    def pread(descriptor: int, length: int, at: int) -> bytes:
        read[0] += length
        return real(descriptor, length, at)

    monkeypatch.setattr(file_names.os, "pread", pread)
    agent = sink(tmp_path, per_image=False)
    for start in range(0, 200, 10):
        agent.deliver(batch[start : start + 10])
    assert lines(tmp_path) == ids(batch)
    assert read[0] < size + 4 * (1 << 16)


def test_lines_are_the_results_byte_for_byte(tmp_path: Path) -> None:
    batch = [stored(n, "Ü\u2028.png", pad=n) for n in range(1, 5)]
    sink(tmp_path).deliver(batch)
    assert (tmp_path / f"{DAY}.jsonl").read_bytes() == b"".join(one.body + b"\n" for one in batch)
    assert msgspec.json.decode(batch[0].body)["created_at"] == CREATED
