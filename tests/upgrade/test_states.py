"""What every released version has left in a state folder, this one takes over; what a newer one left, it refuses.

``states/<version>.tar.xz`` was written by that version (``freeze.py``) and never changes.
"""

from __future__ import annotations

import json
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path

import pytest

from agent.ledger import database
from tests.support.bundles import flat_png
from tests.support.mosquitto import broker_and_listener
from tests.support.station import Station, weldwatch
from tests.upgrade.freeze import RESULTS, STATES

RELEASED = sorted(STATES.glob("*.tar.xz"))


@pytest.fixture(params=RELEASED, ids=lambda path: path.name.removesuffix(".tar.xz"))
def station(request: pytest.FixtureRequest, tmp_path: Path) -> Station:
    """A station as that version left it, with a camera that has delivered one more image since."""
    station = Station(tmp_path, bundle={"initial": "weld-demo"})
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    station.settings["results"]["keep_days"] = 36_500  # these results grow old, and must not be tidied away
    station.write()
    station.put("new.png", flat_png(240))
    return station


def state(station: Station) -> Path:
    return Path(station.settings["state"])


def test_there_is_a_state_of_the_first_release() -> None:
    assert RELEASED[0].name == "0.1.0.tar.xz"


def test_what_was_not_delivered_is_delivered_and_counting_goes_on(station: Station) -> None:
    before = station.lines()
    assert len(before) == RESULTS
    with broker_and_listener(station.root / "broker", f"{station.topic}/result") as (broker, consumer):
        station.settings["mqtt"] = {"host": broker.host, "port": broker.port}
        station.write()
        done = station.once()
        assert done.returncode == 0, done.stderr
        got = consumer.until(lambda heard: len(heard) >= RESULTS + 1)
    assert got[:RESULTS] == before
    assert station.lines() == got
    new = got[-1]
    assert new["ledger_id"] == before[-1]["ledger_id"]
    assert new["sequence"] == RESULTS + 1
    assert new["image"]["name"] == "new.png"


def test_the_bundle_that_was_active_judges_and_can_be_rolled_back(station: Station) -> None:
    assert station.once().returncode == 0
    assert station.lines()[-1]["model"]["name"] == "brightness"
    done = weldwatch("bundle", "rollback", "--config", station.file, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["active"] == "weld-demo"


def seen(station: Station) -> set[tuple[bytes, int]]:
    """Which files have their result, and the sequence it got."""
    with closing(sqlite3.connect(state(station) / database.FILE)) as ledger:
        return set(ledger.execute("SELECT key, sequence FROM seen"))


def test_the_files_that_have_their_result_are_still_known(station: Station) -> None:
    before = seen(station)
    assert len(before) == RESULTS
    assert station.once().returncode == 0
    # What the folder no longer holds may be forgotten; what is known keeps the sequence that it got.
    assert {sequence for _, sequence in seen(station) - before} == {RESULTS + 1}


@pytest.mark.parametrize("command", [("run", "--once"), ("bundle", "rollback"), ("bundle", "list")], ids=" ".join)
def test_a_folder_of_a_newer_layout_is_refused_untouched(station: Station, command: tuple[str, ...]) -> None:
    (state(station) / "format").write_text("2\n")
    before = {path: path.stat().st_mtime_ns for path in state(station).rglob("*")}
    done = weldwatch(*command, "--config", station.file)
    assert done.returncode == 2
    assert "a newer one has been at work here; install that version again" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert {path: path.stat().st_mtime_ns for path in state(station).rglob("*")} == before


def test_a_ledger_of_a_newer_schema_is_refused_untouched(station: Station) -> None:
    with closing(sqlite3.connect(state(station) / database.FILE)) as ledger:
        ledger.execute(f"PRAGMA user_version = {database.VERSION + 1}")
    before = (state(station) / database.FILE).read_bytes()
    done = station.once()
    assert done.returncode == 2
    assert "written by a newer weldwatch" in done.stderr
    assert (state(station) / database.FILE).read_bytes() == before
