"""``weldwatch outbox salvage``: what a technician does with a ledger that the agent has set aside."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from agent.clock import SystemClock
from agent.ledger import Ledger
from agent.ledger.database import FILE
from tests.support.results import an_entry
from tests.support.station import weldwatch


@pytest.fixture
def aside(tmp_path: Path) -> Path:
    """A ledger of 100 results with a page overwritten, which a start has set aside."""
    ledger = Ledger.open(tmp_path, SystemClock())
    ledger.register(["mqtt"])
    ledger.commit([an_entry(number) for number in range(1, 101)])
    ledger.advance("mqtt", 60)
    result_id = ledger.after(79, limit=1)[0].result_id.encode()
    ledger.close()
    path = tmp_path / FILE
    data = bytearray(path.read_bytes())
    at = data.index(result_id) // 4096 * 4096
    data[at : at + 4096] = os.urandom(4096)
    path.write_bytes(data)
    Ledger.open(tmp_path, SystemClock()).close()
    return next(tmp_path.glob("ledger-damaged-*.sqlite3"))


def test_it_writes_what_can_be_read_and_says_what_is_lost(aside: Path, tmp_path: Path) -> None:
    out, before = tmp_path / "salvaged.jsonl", aside.read_bytes()
    done = weldwatch("outbox", "salvage", aside, "--out", out, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    numbers = [json.loads(line)["sequence"] for line in out.read_bytes().splitlines()]
    assert numbers == sorted(numbers)
    assert 80 not in numbers
    assert told["read"] == len(numbers) == 100 - told["known_lost"]
    assert 1 <= told["known_lost"] <= 4
    assert told["sinks"] == {"mqtt": {"delivered_up_to": 60, "behind": sum(number > 60 for number in numbers)}}
    assert aside.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith(aside.name)} == {aside.name}
    said = weldwatch("outbox", "salvage", aside, "--out", tmp_path / "again.jsonl").stdout.splitlines()
    assert said[0] == f"{len(numbers)} results read, written to {tmp_path / 'again.jsonl'}; " \
        f"{told['known_lost']} known to be lost"  # fmt: skip
    assert said[1].startswith("mqtt had delivered up to 60: ")


def test_it_writes_over_nothing_and_says_what_it_cannot_do(aside: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.jsonl"
    mine.write_text("mine")
    done = weldwatch("outbox", "salvage", aside, "--out", mine)
    assert (done.returncode, mine.read_text()) == (2, "mine")
    assert "it is there already" in done.stderr
    done = weldwatch("outbox", "salvage", aside, "--out", tmp_path / "no/folder.jsonl")
    assert done.returncode == 2
    assert "No such file or directory; name a file in --out that can be written" in done.stderr
    done = weldwatch("outbox", "salvage", tmp_path / "absent", "--out", tmp_path / "new")
    assert done.returncode == 2
    assert "no such file" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_file_without_a_result_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(os.urandom(50_000))
    done = weldwatch("outbox", "salvage", tmp_path / "noise", "--out", tmp_path / "out.jsonl", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout) == {
        "read": 0, "known_lost": 0, "unaccounted": 0, "sinks": {}, "out": None
    }  # fmt: skip
    assert not (tmp_path / "out.jsonl").exists()
