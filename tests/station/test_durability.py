"""Nothing is lost: the agent killed again and again, the broker away, and still one result each, in order."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.support.bundles import flat_png
from tests.support.mosquitto import Listener, Mosquitto
from tests.support.station import Station, until

SCHEMAS = Path(__file__).parents[2] / "config" / "schemas"


def schema(name: str) -> dict[str, object]:
    return dict(json.loads((SCHEMAS / f"{name}.schema.json").read_text()))


@pytest.mark.slow
def test_300_frames_and_ten_kills_give_each_frame_one_result_on_disk_and_on_mqtt(tmp_path: Path) -> None:
    frames, kills = 300, 10
    with Mosquitto(tmp_path / "broker") as broker:
        station = Station(tmp_path / "station", mqtt={"host": broker.host, "port": broker.port})
        with Listener(broker.port, f"{station.topic}/result") as listener:
            names = [f"shift{number % 3}/weld_{number:04d}.png" for number in range(frames)]
            camera = threading.Thread(target=deliver, args=(station, names, 0.025))
            camera.start()
            chance = random.Random(7)
            for _ in range(kills):
                agent = station.start()
                time.sleep(chance.uniform(0.3, 1.6))  # the kill is to come at any moment, not after an event
                agent.kill()
                agent.wait()
            camera.join()
            with station.running():
                station.wait_for(frames)
                heard = listener.until(lambda results: len({one["image"]["name"] for one in results}) == frames)
    ids = defaultdict(set)
    for result in heard:
        ids[result["image"]["name"]].add(result["result_id"])
    assert sorted(ids) == sorted(names)
    assert all(len(one) == 1 for one in ids.values()), "a result has one id, however often it was sent"
    first_heard = list(dict.fromkeys(one["sequence"] for one in heard))
    assert first_heard == list(range(1, frames + 1)), "in order, without a gap"
    on_disk = {one["image"]["name"]: one["result_id"] for one in station.files()}
    assert len(station.files()) == len(station.lines()) == frames
    assert {name: {one} for name, one in on_disk.items()} == dict(ids)
    assert [one["sequence"] for one in station.lines()] == first_heard


def deliver(station: Station, names: list[str], pause_s: float) -> None:
    for number, name in enumerate(names):
        station.put(name, flat_png(number % 256))
        time.sleep(pause_s)  # a camera's rate


def test_with_the_broker_away_the_station_inspects_and_delivers_later(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path / "broker")
    station = Station(tmp_path / "station", mqtt={"host": broker.host, "port": broker.port})
    with station.running():
        for number in range(20):
            station.put(f"{number:02d}.png", flat_png(number))
        station.wait_for(20)
        until(lambda: b"broker_away" in station.log.read_bytes(), "one line that the broker is away")
        time.sleep(2)  # several attempts to connect
        assert station.log.read_bytes().count(b" broker_away") == 1, "said once, not at every attempt"
        with broker, Listener(broker.port, f"{station.topic}/result") as listener:
            heard = listener.until(lambda results: len({one["result_id"] for one in results}) == 20)
    assert list(dict.fromkeys(one["sequence"] for one in heard)) == list(range(1, 21))


def test_once_waits_for_the_broker_and_says_what_stays_behind(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path / "broker")
    station = Station(tmp_path / "station", mqtt={"host": broker.host, "port": broker.port})
    station.put("a.png", flat_png(1))
    done = station.once()
    assert done.returncode == 1
    assert "1 results are not delivered to mqtt yet" in done.stderr
    with broker, Listener(broker.port, f"{station.topic}/result") as listener:
        assert station.once().returncode == 0
        assert len(listener.until(lambda results: len(results) == 1)) == 1


@pytest.mark.quiet
def test_once_waits_for_no_subscriber_where_the_broker_is_there(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "broker") as broker:
        station = Station(tmp_path / "station", mqtt={"host": broker.host, "port": broker.port})
        station.put("a.png", flat_png(1))
        begin = time.monotonic()
        assert station.once().returncode == 0
        assert time.monotonic() - begin < 5.0, "as long as a running station waits for one"


def test_once_takes_a_broker_that_comes_within_ten_seconds(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path / "broker")
    station = Station(tmp_path / "station", mqtt={"host": broker.host, "port": broker.port})
    station.put("a.png", flat_png(1))
    late = threading.Timer(4.0, broker.start)
    late.start()
    try:
        done = station.once()
    finally:
        late.join()
        broker.stop()
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_retained_status_is_never_an_old_one(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "broker") as broker:
        station = Station(tmp_path / "station", mqtt={"host": broker.host, "port": broker.port})
        for _ in range(8):
            with station.running(), Listener(broker.port, f"{station.topic}/status") as listener:
                status = listener.until(lambda all_: bool(all_) and working(all_[-1]))[-1]
                jsonschema.validate(status, schema("status"))


def working(status: dict[str, Any]) -> bool:
    return status["state"] == "online" and status["inspecting"] and status["sources"][0]["state"] == "watching"


def test_status_health_and_last_will(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "broker") as broker:
        station = Station(tmp_path / "station", mqtt={"host": broker.host, "port": broker.port})
        with Listener(broker.port, f"{station.topic}/status") as statuses, \
                Listener(broker.port, f"{station.topic}/health") as health:  # fmt: skip
            with station.running():
                online = statuses.until(
                    lambda all_: any(one["state"] == "online" and one["inspecting"] for one in all_)
                )
                gauges = health.until(bool)[-1]
            stopped = statuses.until(lambda all_: all_[-1]["state"] == "stopped")[-1]
            agent = station.start()
            again = statuses.until(lambda all_: all_[-1]["state"] == "online")[-1]
            agent.kill()
            agent.wait()
            offline = statuses.until(lambda all_: all_[-1]["state"] == "offline")[-1]
        with Listener(broker.port, f"{station.topic}/status") as late:
            retained = late.until(bool)[0]
    for status in [*online, stopped, again, offline]:
        jsonschema.validate(status, schema("status"))
    jsonschema.validate(gauges, schema("health"))
    assert online[-1]["bundle"]["name"] == "brightness"
    assert online[-1]["sources"][0]["name"] == "captures"
    assert stopped["session"] == online[-1]["session"]
    assert offline["session"] == again["session"] != stopped["session"]
    assert retained == offline
