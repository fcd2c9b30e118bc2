"""Any order of commits, deliveries, dead letters, faults, kills and restarts keeps the ledger's promises."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent.clock import ManualClock
from agent.errors import RetryError
from agent.ledger import Ledger
from agent.ports import Stored
from tests.support.results import an_entry, key

SINKS = ("files", "mqtt")


class LedgerMachine(RuleBasedStateMachine):
    """The model: a list of names committed, a set of keys seen, a cursor a sink."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="weldwatch-ledger-"))
        self.clock = ManualClock(datetime(2026, 11, 22, tzinfo=timezone.utc))
        self.ledger = Ledger.open(self.folder, self.clock)
        self.ledger.register(SINKS)
        self.ledger_id = self.ledger.ledger_id
        self.committed: list[str] = []  # result ids; the sequence is the place
        self.seen: set[int] = set()
        self.cursors = dict.fromkeys(SINKS, 0)
        self.sure = dict.fromkeys(SINKS, 0)  # cursors that are on disk
        self.dead: set[tuple[str, int]] = set()
        self.pruned = 0

    def teardown(self) -> None:
        self.ledger.close()
        shutil.rmtree(self.folder)

    @rule(files=st.lists(st.integers(0, 30), min_size=1, max_size=6))
    def commit(self, files: list[int]) -> None:
        new = [n for place, n in enumerate(files) if n not in self.seen and n not in files[:place]]
        entries = [an_entry(n) for n in files]
        stored = self.ledger.commit(entries)
        assert [one.image_name for one in stored] == [f"A17_{n:06d}.png" for n in new]
        assert [one.sequence for one in stored] == list(
            range(len(self.committed) + 1, len(self.committed) + 1 + len(new))
        )
        self.committed += [one.result_id for one in stored]
        self.seen.update(new)

    @rule(files=st.lists(st.integers(0, 30), min_size=1, max_size=3, unique=True), at=st.integers(0, 5))
    def commit_on_a_full_disk(self, files: list[int], at: int) -> None:
        access = self.ledger._access

        class Full:
            """The connection, whose ``at``-th statement finds the disk full."""

            left = at

            def __getattr__(self, name: str) -> object:
                return getattr(access_write, name)

            def execute(self, statement: str, *values: object) -> sqlite3.Cursor:
                if statement != "ROLLBACK" and not statement.startswith("PRAGMA"):
                    if self.left == 0:
                        self.left = -1
                        raise sqlite3.OperationalError("database or disk is full")
                    self.left -= 1
                return access_write.execute(statement, *values)

        access_write, full = access._write, Full()
        access._write = full  # type: ignore[assignment]
        try:
            entries = [an_entry(n) for n in files]
            before = self.ledger.last_sequence
            try:
                stored = self.ledger.commit(entries)
            except RetryError:
                assert self.ledger.last_sequence == before
            else:
                self.committed += [one.result_id for one in stored]
                self.seen.update(files)
        finally:
            access._write = access_write

    @rule(sink=st.sampled_from(SINKS), count=st.integers(1, 4))
    def deliver(self, sink: str, count: int) -> None:
        batch = self._next(sink, count)
        if batch:
            self.ledger.advance(sink, batch[-1].sequence)
            self.cursors[sink] = batch[-1].sequence

    @rule(sink=st.sampled_from(SINKS), count=st.integers(0, 4))
    def doubt(self, sink: str, count: int) -> None:
        before = max(self.pruned, self.cursors[sink] - count)
        moves = before < self.cursors[sink]
        dead = self.ledger.go_back(sink, before)
        assert dead == {sequence for name, sequence in self.dead if name == sink and sequence > before}
        if moves:
            self.cursors[sink] = before
            self.sure.update(self.cursors)

    @rule(sink=st.sampled_from(SINKS))
    def bury(self, sink: str) -> None:
        batch = self._next(sink, 1)
        if batch:
            self.ledger.bury(sink, batch[0], "refused")
            self.cursors[sink] = self.sure[sink] = batch[0].sequence
            self.dead.add((sink, batch[0].sequence))

    def _next(self, sink: str, count: int) -> list[Stored]:
        batch = self.ledger.after(self.ledger.cursor(sink), count)
        first = self.cursors[sink]
        assert [one.result_id for one in batch] == self.committed[first : first + count]
        return batch

    @rule()
    def save(self) -> None:
        assert self.ledger.save_cursors()
        self.sure.update(self.cursors)

    @rule(seconds=st.floats(0, 3))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def restart(self) -> None:
        self.ledger.close()
        self.sure.update(self.cursors)
        self._open()

    @rule()
    def kill(self) -> None:
        """What a SIGKILL leaves: the files as they are, WAL and all."""
        copy = Path(tempfile.mkdtemp(prefix="weldwatch-ledger-"))
        for file in self.folder.iterdir():
            if not file.name.endswith("-shm"):
                shutil.copy(file, copy / file.name)
        self.ledger.close()
        shutil.rmtree(self.folder)
        self.folder = copy
        self._open()
        for sink in SINKS:  # a cursor may have fallen back, never before what was surely written
            assert self.sure[sink] <= self.ledger.cursor(sink) <= self.cursors[sink]
            self.cursors[sink] = self.sure[sink] = self.ledger.cursor(sink)

    def _open(self) -> None:
        self.ledger = Ledger.open(self.folder, self.clock)
        self.ledger.register(SINKS)

    @precondition(lambda self: self.committed)
    @rule()
    def prune(self) -> None:
        done = min(min(self.cursors.values()), len(self.committed) - 1)
        assert self.ledger.prune(self.clock.now() + timedelta(days=1)) == done - self.pruned
        self.pruned = done
        self.sure.update(self.cursors)

    @invariant()
    def keeps_its_promises(self) -> None:
        assert self.ledger.ledger_id == self.ledger_id
        assert self.ledger.last_sequence == len(self.committed)
        kept = self.ledger.after(0, 10_000)
        assert [(one.sequence, one.result_id) for one in kept] == [
            (place + 1, result_id) for place, result_id in enumerate(self.committed) if place >= self.pruned
        ]
        assert self.ledger.seen([key(n) for n in range(31)]) == {key(n) for n in self.seen}
        assert {sink: self.ledger.cursor(sink) for sink in SINKS} == self.cursors
        assert {sink: self.ledger.depth(sink) for sink in SINKS} == {
            sink: len(self.committed) - at for sink, at in self.cursors.items()
        }
        assert {(letter.sink, letter.sequence) for letter in self.ledger.dead()} == self.dead


TestLedgerMachine = pytest.mark.slow(
    settings(max_examples=40, stateful_step_count=25, deadline=None)(LedgerMachine).TestCase
)

_UNDER_LOAD = """
import sys
from pathlib import Path
from agent.clock import SystemClock
from agent.ledger import Ledger
from tests.support.results import an_entry

ledger = Ledger.open(Path(sys.argv[1]), SystemClock())
ledger.register(["mqtt"])
number = int(sys.argv[2])
print("ready", flush=True)
while True:
    stored = ledger.commit([an_entry(number + n) for n in range(3)])
    number += 2  # the last of each commit comes a second time with the next one
    print(*(f"{one.sequence}:{one.result_id}" for one in stored), flush=True)
    batch = ledger.after(ledger.cursor("mqtt"), 2)
    ledger.advance("mqtt", batch[-1].sequence)
"""


@pytest.mark.slow
def test_no_kill_under_load_loses_an_acknowledged_result_or_gives_a_sequence_twice(tmp_path: Path) -> None:
    acknowledged: dict[int, str] = {}
    for round_ in range(12):
        command = [sys.executable, "-c", _UNDER_LOAD, str(tmp_path), str(round_ * 1_000_000)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            for _ in range(3 + round_ * 7):
                process.stdout.readline()
            os.kill(process.pid, signal.SIGKILL)
            rest = process.stdout.read()
        for pair in rest.decode().splitlines()[-1].split() if rest.endswith(b"\n") else ():
            sequence, result_id = pair.split(":")
            acknowledged[int(sequence)] = result_id
        ledger = Ledger.open(tmp_path, ManualClock(datetime(2026, 11, 22, tzinfo=timezone.utc)))
        kept = {one.sequence: one.result_id for one in ledger.after(0, 1_000_000, 1 << 40)}
        assert list(kept) == list(range(1, len(kept) + 1))
        assert acknowledged.items() <= kept.items()
        assert len(set(kept.values())) == len(kept)
        assert ledger.cursor("mqtt") <= ledger.last_sequence
        acknowledged = kept  # what is kept now must stay, under the same number
        ledger.close()
