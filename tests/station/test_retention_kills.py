"""A log that is cut again and again, by an agent that is killed again and again: nothing is lost or doubled."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.camera import Camera
from tests.support.mosquitto import Mosquitto
from tests.support.station import Station, until
from tests.support.tally import Tally

SEED, ROUNDS, PAUSE_S = 20_261_127, 14, 0.01


def on_disk(station: Station) -> list[tuple[int, str]]:
    """Sequence and id of each line, parts first."""
    lines = [line for log in sorted(station.results.glob("*.jsonl")) for line in log.read_bytes().splitlines()]
    return [(int(one["sequence"]), str(one["result_id"])) for one in map(json.loads, lines)]


@pytest.mark.slow
def test_kills_while_the_log_is_cut_lose_nothing(tmp_path: Path, figure: Callable[[str], None]) -> None:
    chance, cuts = random.Random(SEED), set[str]()
    with Mosquitto(tmp_path / "broker") as broker:
        station = Station(tmp_path / "station", mqtt={"host": broker.host, "port": broker.port})
        station.settings["results"].update(keep_gb=0.0001, per_image=False)
        station.write()
        with Tally(broker.port, f"{station.topic}/result") as tally, Camera(station, PAUSE_S) as camera:
            for _ in range(ROUNDS):
                agent = station.start()
                time.sleep(chance.uniform(1.0, 2.5))  # at any moment, not after an event
                agent.kill()
                agent.wait()
                cuts.update(path.name for path in station.results.glob("????-??-??.*.jsonl"))
            camera.stop()
            station.settings["results"].pop("keep_gb")  # the rest stays
            station.write()
            with station.running():
                tally.until(lambda: len({one.sequence for one in tally.heard}) >= len(camera.names), "all on MQTT")
                until(lambda: on_disk(station)[-1:] and on_disk(station)[-1][0] == len(camera.names), "all on disk")
            first = tally.first_heard()
    lines = on_disk(station)
    figure(
        f"seed {SEED}, {len(first)} frames, {ROUNDS} kills; {lines[0][0] - 1} lines went; parts seen: {sorted(cuts)}"
    )
    assert [one.sequence for one in first] == list(range(1, len(camera.names) + 1)), "once, in order, without a gap"
    assert Counter(one.image.name for one in first) == Counter(camera.names)
    assert lines[0][0] > 1, "parts went"
    heard = {one.sequence: one.result_id for one in first}
    assert lines == [(number, heard[number]) for number in range(lines[0][0], len(heard) + 1)], "each id one line"
