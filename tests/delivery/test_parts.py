"""A day's log that is cut into parts: each result one line in all of them together, whoever is killed when."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.delivery import parts
from agent.ports import Stored
from tests.support.results import stored
from tests.support.results_folder import DAY, ids, lines, sink


def made(first: int, last: int, hour: int = 10) -> list[Stored]:
    return [stored(n, created_at=f"{DAY}T{hour:02d}:{n // 60:02d}:{n % 60:02d}.000Z") for n in range(first, last + 1)]


def in_parts(folder: Path) -> list[str]:
    """All lines of the day, in the order of a shell's ``*.jsonl``."""
    texts = [path.read_bytes() for path in sorted(folder.glob("*.jsonl"))]
    assert all(text == b"" or text.endswith(b"\n") for text in texts)
    return [json.loads(line)["result_id"] for text in texts for line in text.splitlines()]


def test_a_cut_log_is_a_part_by_the_time_of_its_first_result_and_a_new_one_begins(tmp_path: Path) -> None:
    batch, agent = made(1, 9), sink(tmp_path, per_image=False)
    agent.deliver(batch[:3])
    inode = (tmp_path / f"{DAY}.jsonl").stat().st_ino
    part = agent.cut_log(DAY)
    assert (part.name, part.stat().st_ino) == (f"{DAY}.100001000.jsonl", inode)
    assert not (tmp_path / f"{DAY}.jsonl").exists()
    agent.deliver(batch[3:6])
    agent.cut_log(DAY)
    agent.deliver(batch[6:])
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        f"{DAY}.100001000.jsonl", f"{DAY}.100004000.jsonl", f"{DAY}.jsonl",
    ]  # fmt: skip
    assert in_parts(tmp_path) == ids(batch)
    assert lines(tmp_path) == ids(batch[6:])


@pytest.mark.parametrize("again_from", range(9))
def test_what_is_delivered_again_is_found_in_the_parts(tmp_path: Path, again_from: int) -> None:
    batch, agent = made(1, 9), sink(tmp_path, per_image=False)
    for start in (0, 3, 6):
        agent.deliver(batch[start : start + 3])
        agent.cut_log(DAY)
    sink(tmp_path, per_image=False).deliver(batch[again_from:])  # killed, and its cursor was behind
    assert in_parts(tmp_path) == ids(batch)


def test_also_when_the_clock_was_set_back_between_the_parts(tmp_path: Path) -> None:
    before, after = made(1, 5, hour=12), made(6, 9, hour=10)
    agent = sink(tmp_path, per_image=False)
    agent.deliver(before)
    agent.cut_log(DAY)
    agent.deliver(after)
    agent.cut_log(DAY)
    sink(tmp_path, per_image=False).deliver(after)
    sink(tmp_path, per_image=False).deliver([*before, *after])
    assert Counter(in_parts(tmp_path)) == Counter(ids([*before, *after]))


def test_a_torn_end_is_no_part_of_a_part(tmp_path: Path) -> None:
    batch = made(1, 3)
    sink(tmp_path, per_image=False).deliver(batch[:2])
    with (tmp_path / f"{DAY}.jsonl").open("ab") as log:
        log.write(b'{"schema": "weldw')
    agent = sink(tmp_path, per_image=False)
    agent.cut_log(DAY)
    agent.deliver(batch[2:])
    assert in_parts(tmp_path) == ids(batch)


def test_a_name_that_is_taken_is_left_alone(tmp_path: Path) -> None:
    agent, names = sink(tmp_path, per_image=False), []
    for _ in range(2):  # the clock was set back: another result of the very same millisecond
        agent.deliver(made(1, 1))
        names.append(agent.cut_log(DAY).name)
    assert names == [f"{DAY}.100001000.jsonl", f"{DAY}.100001001.jsonl"]
    assert len(in_parts(tmp_path)) == 2


def test_only_our_own_names_are_parts(tmp_path: Path) -> None:
    for name in (f"{DAY}.notes.jsonl", f"{DAY}.1.jsonl", f"{DAY}-old.jsonl", f"{DAY}.jsonl", f"{DAY}.100001000.jsonl"):
        (tmp_path / name).touch()
    assert [path.name for path in parts.of_day(tmp_path, DAY)] == [f"{DAY}.100001000.jsonl"]


class Cutting(RuleBasedStateMachine):
    """Deliveries, cuts, parts that go, kills with a cursor that lags: what is not gone has one line, in order."""

    folder: Path

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="weldwatch-parts-"))
        self.agent: Any = sink(self.folder, per_image=False)
        self.made: list[Stored] = []
        self.cursor = self.on_disk = 0
        self.gone: set[str] = set()

    @rule(count=st.integers(1, 5))
    def deliver(self, count: int) -> None:
        self.made += made(len(self.made) + 1, len(self.made) + count)
        self.agent.deliver(self.made[self.cursor :])
        self.cursor = len(self.made)

    @precondition(lambda self: (self.folder / f"{DAY}.jsonl").exists())
    @rule()
    def cut(self) -> None:
        self.agent.cut_log(DAY)

    @rule()
    def save(self) -> None:
        self.on_disk = self.cursor

    @precondition(lambda self: parts.of_day(self.folder, DAY))
    @rule()
    def remove(self) -> None:
        """As retention does it: the cursors are written first."""
        self.on_disk = self.cursor
        part = parts.of_day(self.folder, DAY)[0]
        self.gone.update(json.loads(line)["result_id"] for line in part.read_bytes().splitlines())
        part.unlink()

    @rule(torn=st.booleans())
    def kill(self, torn: bool) -> None:
        if torn and (self.folder / f"{DAY}.jsonl").exists():
            with (self.folder / f"{DAY}.jsonl").open("ab") as log:
                log.write(b'{"sche')
        self.agent, self.cursor = sink(self.folder, per_image=False), self.on_disk
        while self.cursor < len(self.made):
            batch = self.made[self.cursor : self.cursor + 2]
            self.agent.deliver(batch)
            self.cursor += len(batch)

    @invariant()
    def each_has_one_line(self) -> None:
        if not hasattr(self, "made"):
            return
        log = self.folder / f"{DAY}.jsonl"
        if log.exists() and not log.read_bytes().endswith(b"\n"):
            return  # torn until something is appended
        assert in_parts(self.folder) == [one for one in ids(self.made) if one not in self.gone]

    def teardown(self) -> None:
        shutil.rmtree(self.folder)


TestCutting = Cutting.TestCase
TestCutting.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
