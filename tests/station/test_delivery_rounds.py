"""Fifty rounds: frames arrive all the time, broker and agent are killed at random, and every result still arrives."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.camera import Camera
from tests.support.mosquitto import Mosquitto
from tests.support.station import Station, until
from tests.support.tally import Tally

SEED, ROUNDS, PAUSE_S = 20_261_122, 50, 0.05
KEEPING = ["persistence true", "autosave_on_changes true", "autosave_interval 1", "max_queued_messages 0"]


class Trouble:
    """What befalls a round, by a fixed seed."""

    def __init__(self, station: Station, broker: Mosquitto, tally: Tally) -> None:
        self.chance = random.Random(SEED)
        self.station, self.broker, self.tally = station, broker, tally
        self.agent = station.start()
        self.counts: Counter[str] = Counter()

    def round(self) -> None:
        """At a random moment one of them goes, or both; at another each is back."""
        time.sleep(self.chance.uniform(0.2, 1.2))  # at any moment, not after an event
        what = self.chance.choice(["agent", "broker", "broker", "both"])
        if what != "agent":
            self.end_broker()
        if what != "broker":
            self.agent.kill()
            self.agent.wait()
            self.counts["agent killed"] += 1
        time.sleep(self.chance.uniform(0.0, 0.8))
        if what != "broker":
            self.agent = self.station.start()
        if what != "agent":
            subscribed = self.tally.connections
            self.broker.start()
            # What a broker keeps for an absent subscriber is the broker's to keep: it is not killed again before.
            self.tally.until(lambda: self.tally.connections > subscribed, "the subscriber's return")

    def end_broker(self) -> None:
        how = self.chance.choice(["stopped", "killed", "killed, its sessions lost"])
        if how == "stopped":
            self.broker.stop()
        else:
            self.broker.kill()
        if how.endswith("lost"):
            shutil.rmtree(self.broker.folder / "kept")
            (self.broker.folder / "kept").mkdir()
        self.counts[f"broker {how}"] += 1


@pytest.mark.slow
def test_fifty_rounds_of_kills_lose_nothing(tmp_path: Path, figure: Callable[[str], None]) -> None:
    (tmp_path / "broker" / "kept").mkdir(parents=True)
    broker = Mosquitto(tmp_path / "broker", lines=[*KEEPING, f"persistence_location {tmp_path}/broker/kept/"])
    with broker:
        station = Station(tmp_path / "station", mqtt={"host": broker.host, "port": broker.port})
        with Tally(broker.port, f"{station.topic}/result") as tally:
            trouble = Trouble(station, broker, tally)
            try:
                with Camera(station, PAUSE_S) as camera:
                    for _ in range(ROUNDS):
                        trouble.round()
            finally:
                trouble.agent.kill()
                trouble.agent.wait()
            with station.running():
                station.wait_for(len(camera.names))
                tally.until(lambda: len({one.sequence for one in tally.heard}) >= len(camera.names), "all on MQTT")
    figure(told(trouble.counts, camera.names, tally))
    check_heard(tally, len(camera.names))
    check_disk(station, camera.names, tally)


def told(counts: Counter[str], names: list[str], tally: Tally) -> str:
    again = 1 - len(tally.first_heard()) / len(tally.heard)
    what = ", ".join(f"{name} {count}×" for name, count in sorted(counts.items()))
    return f"seed {SEED}, {len(names)} frames; {what}; of {len(tally.heard)} heard {again:.1%} were duplicates"


def check_heard(tally: Tally, count: int) -> None:
    first = tally.first_heard()
    assert len({one.ledger_id for one in first}) == 1
    assert [one.sequence for one in first] == list(range(1, count + 1)), "once, in order, without a gap"


def check_disk(station: Station, names: list[str], tally: Tally) -> None:
    files, lines = station.files(), station.lines()
    assert sorted(one["image"]["name"] for one in files) == sorted(names), "each frame one file"
    assert [one["result_id"] for one in lines] == [one.result_id for one in tally.first_heard()], "each id one line"
    assert Counter(one["result_id"] for one in files) == Counter(one["result_id"] for one in lines)
    until(lambda: not list(station.results.glob("*/.*")), "temporary files of killed agents to be gone", 1)
