"""A real station and a real mosquitto: commands that reach a camera, and a span of time again, whatever is killed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import flat_png
from tests.support.caller import Caller
from tests.support.mosquitto import Listener, Mosquitto
from tests.support.station import Station, until, weldwatch

pytestmark = pytest.mark.quiet


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker") as broker:
        yield broker


def a_film(path: Path) -> Path:
    import cv2
    import numpy as np

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 20, (320, 240))
    for number in range(2000):
        writer.write(np.full((240, 320, 3), 40 + number % 200, np.uint8))
    writer.release()
    return path


def test_a_trigger_over_mqtt_is_answered_with_the_id_of_the_result_that_follows(
    tmp_path: Path, broker: Mosquitto
) -> None:
    camera = {"type": "camera", "name": "torch", "url": str(a_film(tmp_path / "weld.avi")), "trigger": "command"}
    mqtt = {"host": "127.0.0.1", "port": broker.port, "commands": ["trigger"], "live": True}
    station = Station(tmp_path / "station", sources=[camera], mqtt=mqtt)
    with (
        station.running(),
        Caller(broker.port, station.topic) as mes,
        Listener(broker.port, f"{station.topic}/#") as all_,
    ):
        mes.reach()
        ids = []
        for number in range(5):
            answer = mes.ask("trigger", {"id": number, "source": "torch"}, correlation=b"%d" % number)
            assert answer["ok"], answer
            assert answer["answer"]["source"] == "torch"
            ids.append(answer["answer"]["result_id"])
        again = mes.ask("trigger", {"id": 4})
        assert again["answer"]["result_id"] == ids[4], "the same id takes no second picture"
        assert "is no camera of this station; cameras are torch" in mes.ask("trigger", {"source": "lamp"})["error"]

        def heard(name: str) -> list[str]:
            topic = f"{station.topic}/{name}"
            return [json.loads(bytes(one.payload))["result_id"] for one in all_.messages if one.topic == topic]

        with all_.changed:
            assert all_.changed.wait_for(lambda: len(heard("result")) >= 5 and len(heard("live")) >= 5, 20)
    assert heard("result") == heard("live") == ids
    assert [result["result_id"] for result in station.files()] == sorted(ids)


def replay_all(station: Station) -> dict[str, Any]:
    done = weldwatch("outbox", "replay", "--since", "1h", "--config", station.file, "--json")
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def is_replayed(message: Any) -> bool:
    return ("replayed", "true") in getattr(message.properties, "UserProperty", [])


def test_a_replay_is_taken_up_by_an_agent_that_runs_that_is_killed_and_that_starts_later(
    tmp_path: Path, broker: Mosquitto
) -> None:
    station = Station(tmp_path / "station", mqtt={"host": "127.0.0.1", "port": broker.port, "commands": ["replay"]})
    for number in range(150):
        station.put(f"A17_{number:03d}.png", flat_png(number))
    with Listener(broker.port, f"{station.topic}/result") as mes:
        with station.running():
            first = mes.until(lambda heard: len(heard) == 150)
            told = replay_all(station)
            assert told["results"] == 150
            mes.until(lambda heard: len(heard) == 300)
            until(lambda: not list((station.root / "state" / "replays").iterdir()), "the wish to be gone")
            with Caller(broker.port, station.topic) as caller:
                caller.reach()
                answer = caller.ask("replay", {"since": "1h", "id": "shift 2"})
                assert answer["answer"]["results"] == 150
                assert "since: found 'once'" in caller.ask("replay", {"since": "once"})["error"]
                assert "missing required field `since`" in caller.ask("replay", {})["error"]
            mes.until(lambda heard: len(heard) == 450)
        replay_all(station)  # with the agent stopped
        process = station.start()
        mes.until(lambda heard: len(heard) > 450)
        process.kill()
        process.wait()
        with station.running():
            mes.until(lambda heard: heard[-1] == first[-1])
            until(lambda: not list((station.root / "state" / "replays").iterdir()), "the wish to be gone")
        last = mes.messages[450:]
        assert {bytes(one.payload) for one in last} == {bytes(one.payload) for one in mes.messages[:150]}
        assert [is_replayed(one) for one in mes.messages] == [False] * 150 + [True] * (len(mes.messages) - 150)
        assert mes.json()[:150] == mes.json()[150:300] == mes.json()[300:450] == first
    assert len(station.lines()) == 150, "a replay is no new result on disk"
