"""Rounds of kills under way: a host that follows the specification has every result in the end, metric for metric."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.camera import Camera
from tests.support.mosquitto import Mosquitto
from tests.support.sparkplug import Host
from tests.support.station import Station

SEED, ROUNDS, PAUSE_S = 20_261_122, 20, 0.05


class Trouble:
    """What befalls a round, by a fixed seed: agent, broker or primary host go at any moment, and come back."""

    def __init__(self, station: Station, broker: Mosquitto, host: Host) -> None:
        self.chance = random.Random(SEED)
        self.station, self.broker, self.host = station, broker, host
        self.agent = station.start()
        self.counts: Counter[str] = Counter()

    def round(self) -> None:
        time.sleep(self.chance.uniform(0.2, 1.0))  # at any moment, not after an event
        what = self.chance.choice(["agent killed", "broker killed", "broker stopped", "host killed", "host stopped"])
        both = self.chance.random() < 0.3
        self.counts[what] += 1
        if what.startswith("host"):
            (self.host.kill if what == "host killed" else self.host.stop)()
        if what.startswith("broker"):
            (self.broker.kill if what == "broker killed" else self.broker.stop)()
        if both or what == "agent killed":
            self.counts["agent killed"] += what != "agent killed"
            self.agent.kill()
            self.agent.wait()
        time.sleep(self.chance.uniform(0.0, 0.6))
        if both or what == "agent killed":
            self.agent = self.station.start()
        if what.startswith("broker"):
            self.broker.start()
        if what.startswith("host"):
            self.host.start()


@pytest.mark.slow
def test_rounds_of_kills_lose_no_result(tmp_path: Path, figure: Callable[[str], None]) -> None:
    sparkplug = {"group": "acme", "node": "cam-07", "device": "weld", "primary_host": "scada"}
    with (
        Mosquitto(tmp_path / "broker") as broker,
        Host(broker.port, "acme", "cam-07", "weld", host_id="scada", lenient_gaps=True) as host,
    ):
        section = {"broker": {"host": broker.host, "port": broker.port}, **sparkplug}
        station = Station(tmp_path / "station", sparkplug=section)
        trouble = Trouble(station, broker, host)
        try:
            with Camera(station, PAUSE_S) as camera:
                for _ in range(ROUNDS):
                    trouble.round()
        finally:
            trouble.agent.kill()
            trouble.agent.wait()
        with station.running():
            lines = station.wait_for(len(camera.names))
            host.until(lambda: len(host.results) == len(lines), 60)
        host.until(lambda: not host.node.online)
    again = 1 - len(host.results) / len(host.order)
    what = ", ".join(f"{name} {count}×" for name, count in sorted(trouble.counts.items()))
    figure(
        f"seed {SEED}, {len(lines)} results, {what}; {host.verbs().count('NBIRTH')} births, "
        f"{len(host.historical)} results historical, {again:.0%} of messages were duplicates; 0 lost"
    )
    assert host.faults == []
    assert host.results == {line["result_id"]: line for line in lines}, "every metric of every result"
    assert list(dict.fromkeys(host.order)) == list(range(1, len(lines) + 1)), "first in order"
    numbers = [message.metrics["bdSeq"].long_value for message in host.messages if message.verb == "NBIRTH"]
    assert numbers == sorted(numbers), "bdSeq rises over sessions and restarts"
