"""``weldwatch outbox`` as people and machines call it."""

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


# --- dead letters that were looked at ---


def test_of_many_dead_letters_people_see_the_last(config: Path) -> None:
    ledger = Ledger.open(config.parent / "state", SystemClock())
    for stored in ledger.commit([an_entry(n, name=f"weld-{n}.png") for n in range(10, 50)]):
        ledger.bury("mqtt", stored, "too large")
    ledger.close()
    done = weldwatch("outbox", "status", "--config", config)
    assert "the last 20 of 41 dead letters" in done.stdout
    assert ("weld-29.png" in done.stdout, "weld-30.png" in done.stdout, "weld-49.png" in done.stdout) == (
        False, True, True,
    )  # fmt: skip
    told = json.loads(weldwatch("outbox", "status", "--config", config, "--json").stdout)
    assert [letter["sequence"] for letter in told["dead_letters"]] == [1, *range(4, 44)]


def test_what_was_looked_at_is_forgotten_beside_the_agent(config: Path) -> None:
    ledger = Ledger.open(config.parent / "state", SystemClock())
    done = weldwatch("outbox", "forget", "--sink", "mqtt", "--before", "1h", "--config", config, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["forgotten"] == 0, "refused a moment ago"
    done = weldwatch("outbox", "forget", "--sink", "mqtt", "--config", config, "--json")
    told = json.loads(done.stdout)
    assert (told["sink"], told["forgotten"]) == ("mqtt", 1)
    assert ledger.dead() == []
    assert ledger.depth("mqtt") == 2, "what waits is not touched"
    ledger.close()


def test_of_which_sink_has_to_be_said_and_to_exist(config: Path) -> None:
    done = weldwatch("outbox", "forget", "--config", config)
    assert done.returncode == 2
    assert "--sink" in done.stderr
    done = weldwatch("outbox", "forget", "--sink", "kafka", "--config", config)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "allowed: files, mqtt" in done.stderr
    (config.parent / "state" / "ledger.sqlite3").unlink()
    done = weldwatch("outbox", "forget", "--sink", "mqtt", "--config", config)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


# --- a span of time again ---


@pytest.fixture
def with_broker(config: Path) -> Path:
    config.write_text(config.read_text() + "mqtt: {host: broker.example}\n")
    return config


def test_a_wish_is_written_down_shown_and_cancelled(with_broker: Path) -> None:
    done = weldwatch("outbox", "replay", "--since", "2026-11-22", "--config", with_broker, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["sink"], told["since"], told["results"]) == ("mqtt", "2026-11-22T00:00:00.000Z", 3)
    (shown,) = json.loads(weldwatch("outbox", "status", "--config", with_broker, "--json").stdout)["replays"]
    assert (shown["replay"], shown["sent"], shown["results"]) == (told["replay"], 0, None)
    (row,) = [
        row
        for row in weldwatch("outbox", "status", "--config", with_broker).stdout.splitlines()
        if told["replay"] in row
    ]
    assert "2026-11-22T00:00:00Z" in row, "a replay is one line on 80 columns"
    assert row.rstrip().endswith("waits")
    done = weldwatch("outbox", "cancel", told["replay"], "--config", with_broker)
    assert (done.returncode, done.stdout) == (0, f"replay {told['replay']} is cancelled\n")
    assert json.loads(weldwatch("outbox", "status", "--config", with_broker, "--json").stdout)["replays"] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--since", "whenever"), "--since: found 'whenever'; use for example 2h"),
        (("--since", "2h", "--until", "soon"), "--until: found 'soon'; use for example 2h"),
        (("--since", "2026-11-23", "--until", "2026-11-22"), "is not before until 2026-11-22T00:00:00.000Z"),
        (("--since", "2026-11-20", "--until", "2026-11-21"), f"no result in the ledger was made from 2026-11-20T00:00:"
         f"00.000Z to 2026-11-21T00:00:00.000Z; it begins at {CREATED}"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(with_broker: Path, words: tuple[str, ...], said: str) -> None:
    done = weldwatch("outbox", "replay", *words, "--config", with_broker)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert said in done.stderr


def test_without_a_broker_or_such_a_replay(config: Path) -> None:
    done = weldwatch("outbox", "replay", "--since", "2h", "--config", config)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "mqtt: missing; there is nobody to send anything to again" in done.stderr
    done = weldwatch("outbox", "cancel", "../x", "--config", config)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "no replay '../x' waits; waiting: none" in done.stderr
