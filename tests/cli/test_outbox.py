"""``weldwatch outbox status`` as people and machines call it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.clock import SystemClock
from agent.ledger import Ledger
from tests.support.results import CREATED, an_entry
from tests.support.station import weldwatch


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A station whose broker is behind by two results, after refusing the first for good."""
    file = tmp_path / "agent.yaml"
    file.write_text(
        f"station: {{name: cam-07}}\nstate: {tmp_path}/state\nresults: {{directory: {tmp_path}/results}}\n"
        f"sources: [{{type: folder, name: captures, path: {tmp_path}/captures}}]\n"
    )
    ledger = Ledger.open(tmp_path / "state", SystemClock())
    ledger.register(["files", "mqtt"])
    stored = ledger.commit([an_entry(n, name="[red]\x1b[2J.png") for n in range(3)])
    ledger.advance("files", 3)
    ledger.bury("mqtt", stored[0], "the broker takes no message as large as this")
    ledger.close()
    return file


def test_machines_read_how_far_each_sink_is(config: Path) -> None:
    before = sorted(path.name for path in (config.parent / "state").iterdir())
    done = weldwatch("outbox", "status", "--config", config, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    files, mqtt = told["sinks"]
    assert files == {
        "name": "files", "active": True, "delivered_up_to": 3, "depth": 0, "oldest_undelivered": None,
        "dead_letters": 0,
    }  # fmt: skip
    assert (mqtt["delivered_up_to"], mqtt["depth"], mqtt["oldest_undelivered"]) == (1, 2, CREATED)
    (letter,) = told["dead_letters"]
    assert (letter["sink"], letter["sequence"], letter["image"]) == ("mqtt", 1, "[red]\x1b[2J.png")
    assert letter["reason"] == "the broker takes no message as large as this"
    assert sorted(path.name for path in (config.parent / "state").iterdir()) == before


def test_people_read_it_and_no_name_reaches_the_terminal_as_markup(config: Path) -> None:
    done = weldwatch("outbox", "status", "--config", config)
    assert done.returncode == 0, done.stderr
    assert "mqtt" in done.stdout
    assert "[red]" in done.stdout
    assert "\x1b" not in done.stdout


def test_it_works_beside_the_agent(config: Path) -> None:
    ledger = Ledger.open(config.parent / "state", SystemClock())
    ledger.register(["files"])
    ledger.commit([an_entry(9)])
    done = weldwatch("outbox", "status", "--config", config, "--json")
    ledger.close()
    files, mqtt = json.loads(done.stdout)["sinks"]
    assert (files["depth"], files["active"], mqtt["active"]) == (1, True, False)


def test_no_ledger_is_one_line(config: Path) -> None:
    (config.parent / "state" / "ledger.sqlite3").unlink()
    done = weldwatch("outbox", "status", "--config", config)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "no ledger here" in done.stderr
