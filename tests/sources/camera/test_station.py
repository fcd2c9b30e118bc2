"""Cameras of every kind on a running station: the rates asked, a stall of ten seconds, cameras that are never there."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agent.config import CameraConfig
from agent.errors import UsageError
from agent.sources.camera.build import grabber_of
from tests.support.caller import Caller
from tests.support.gige import gige_camera, simulated_producer
from tests.support.mjpeg import mjpeg_camera
from tests.support.mosquitto import Listener, Mosquitto
from tests.support.ports import free_port
from tests.support.rtsp import rtsp_camera
from tests.support.stamp import age_s
from tests.support.station import Station, until, weldwatch

pytestmark = pytest.mark.quiet

STALL_S = 10.0
FPS = {"rtsp": 5.0, "mjpeg": 10.0, "gige": 5.0, "film": 5.0, "viky": 5.0}


def film(path: Path, seconds: float) -> Path:
    """25 frames a second, each unlike the one before."""
    import cv2

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (160, 120))
    for number in range(int(seconds * 25)):
        writer.write(np.full((120, 160, 3), 40 + number % 150, np.uint8))
    writer.release()
    return path


def source(name: str, url: str, **keys: Any) -> dict[str, Any]:
    return {"type": "camera", "name": name, "url": url, **keys}


def monotonic_of(result: dict[str, Any]) -> float:
    """When it was captured, on the clock that the pictures carry."""
    taken = datetime.fromisoformat(result["captured_at"].replace("Z", "+00:00")).timestamp()
    return taken - time.time() + time.monotonic()


def picture(station: Station, result: dict[str, Any]) -> np.ndarray:
    path = station.results / "frames" / result["image"]["source"] / result["image"]["name"]
    with Image.open(path) as image:
        return np.asarray(image)


def of(results: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [result for result in results if result["image"]["source"] == name]


def states(status: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["state"] for one in status["sources"]}


def rates(results: list[dict[str, Any]]) -> list[float]:
    """Frames a second over each window of 15 frames: a busy machine holds up a server now and then, not always."""
    times = [monotonic_of(result) for result in results]
    return [14 / (last - first) for first, last in zip(times, times[14:], strict=False)]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker") as broker:
        yield broker


@pytest.mark.slow
def test_every_kind_of_camera_at_its_rate_and_after_a_stall_of_ten_seconds(tmp_path: Path, broker: Mosquitto) -> None:
    with contextlib.ExitStack() as cameras:
        rtsp = cameras.enter_context(rtsp_camera())
        mjpeg = cameras.enter_context(mjpeg_camera())
        gige = cameras.enter_context(gige_camera())
        sources = [
            source("rtsp", rtsp.url, fps=FPS["rtsp"]),
            source("mjpeg", mjpeg.url, fps=FPS["mjpeg"]),
            source("gige", gige.url, fps=FPS["gige"]),
            source("film", str(film(tmp_path / "film.avi", 6)), fps=FPS["film"]),
            source("viky", "genicam:VikyTL_DEV_red", producer=str(simulated_producer()), fps=FPS["viky"]),
        ]
        station = Station(tmp_path, sources=sources, mqtt={"host": "127.0.0.1", "port": broker.port})
        status = cameras.enter_context(Listener(broker.port, f"{station.topic}/status"))
        health = cameras.enter_context(Listener(broker.port, f"{station.topic}/health"))
        with station.running():
            until(lambda: all(len(of(station.lines(), name)) >= 28 for name in FPS), "28 frames of each camera", 40)
            for name, asked in FPS.items():
                measured = rates(of(station.lines(), name)[2:])
                assert any(one == pytest.approx(asked, rel=0.1) for one in measured), (name, measured)
                assert min(measured) < asked * 1.1, (name, measured)
            stalled = [rtsp, mjpeg, gige]
            for camera in stalled:
                camera.pause()
            began = time.monotonic()
            names = ("rtsp", "mjpeg", "gige")
            status.until(lambda all_: dict.fromkeys(names, "stalled").items() <= states(all_[-1]).items(), 8)
            time.sleep(max(0.0, began + STALL_S - time.monotonic()))  # the stall's length is the test
            for camera in stalled:
                camera.go_on()
            back = time.monotonic()
            until(
                lambda: all(any(monotonic_of(one) > back for one in of(station.lines(), name)[-3:]) for name in names),
                "frames of each camera within 5 s",
                5,
            )
            until(lambda: all(len([r for r in of(station.lines(), n) if monotonic_of(r) > back]) >= 10 for n in names),
                  "ten frames of each", 10)  # fmt: skip
            status.until(lambda all_: dict.fromkeys(names, "streaming").items() <= states(all_[-1]).items(), 5)
            health.until(lambda all_: any(one["counters"].get("camera_gaps", 0) >= len(names) for one in all_), 15)
        results = station.lines()
        said = station.log.read_text()
    assert health.json()[-1]["counters"]["camera_gap_s"] >= len(names) * (STALL_S - 1)
    assert {result["evaluation"] for result in results} == {"OK", "NotOK"}
    for name in names:
        assert re.search(rf"camera_gap: {name}: frames again, after a gap of 1\d\.\d s: ", said), said
        quiet = [one for one in of(results, name) if began + 1 < monotonic_of(one) < back]
        assert quiet == []
    for name in ("rtsp", "mjpeg"):
        ages = [age_s(picture(station, one), monotonic_of(one)) for one in of(results, name)]
        assert max(ages) < 0.8, f"a stale frame of {name}: {max(ages)} s old"
    assert len(of(results, "film")) == pytest.approx(30, abs=1)
    assert "camera film: the film is over" in said
    for one in results:
        assert one["captured_from"] == "camera"
        assert picture(station, one).shape[:2] == (one["image"]["height"], one["image"]["width"])


@pytest.fixture
def nowhere(tmp_path: Path) -> dict[str, Any]:
    port = free_port()
    return {
        "sources": [
            source("rtsp", f"rtsp://127.0.0.1:{port}/x"),
            source("mjpeg", f"http://127.0.0.1:{port}/x"),
            source("gige", "aravis:127.0.0.77"),
            source("viky", "genicam:nobody", producer=str(simulated_producer())),
            source("film", str(tmp_path / "none.avi")),
        ]
    }


@pytest.mark.slow
def test_cameras_that_are_never_there(tmp_path: Path, nowhere: dict[str, Any], broker: Mosquitto) -> None:
    station = Station(tmp_path / "station", **nowhere, mqtt={"host": "127.0.0.1", "port": broker.port})
    names = [one["name"] for one in nowhere["sources"]]
    with Listener(broker.port, f"{station.topic}/status") as status, station.running() as process:
        wanted = {f"camera_stalled:{name}" for name in names}
        said = status.until(lambda all_of_them: any(wanted <= set(one.get("problems", ())) for one in all_of_them), 20)
        assert {one["name"]: one["state"] for one in said[-1]["sources"]} == dict.fromkeys(names, "stalled")
        begin = time.monotonic()
        process.terminate()
        assert process.wait(10) == 0
        assert time.monotonic() - begin < 3
    for name in names:
        assert f"camera_stalled: {name}: no frame for " in station.log.read_text()


def test_a_trigger_is_answered_with_the_result_of_what_the_camera_saw_then(tmp_path: Path, broker: Mosquitto) -> None:
    with mjpeg_camera() as camera, Listener(broker.port, "#"):
        mqtt = {"host": "127.0.0.1", "port": broker.port, "commands": ["trigger"]}
        station = Station(tmp_path / "station", sources=[source("torch", camera.url, trigger="command")], mqtt=mqtt)
        with station.running(), Caller(broker.port, station.topic) as plc:
            plc.reach()
            asked, answers = list[float](), list[dict[str, Any]]()
            for _ in range(3):
                asked.append(time.monotonic())
                answers.append(plc.ask("trigger"))
            results = station.wait_for(3)
    assert [one["answer"] for one in answers] == [{"source": "torch", "result_id": one["result_id"]} for one in results]
    for moment, result in zip(asked, results, strict=True):
        assert moment - 0.02 < monotonic_of(result) < moment + 1
        assert age_s(picture(station, result), monotonic_of(result)) < 0.8


def test_while_the_disk_is_short_frames_are_dropped_and_counted(tmp_path: Path, broker: Mosquitto) -> None:
    with mjpeg_camera() as camera:
        results = {"directory": str(tmp_path / "results"), "min_free_mb": 10**9}
        mqtt = {"host": "127.0.0.1", "port": broker.port}
        station = Station(tmp_path / "station", sources=[source("torch", camera.url)], mqtt=mqtt, results=results)
        with Listener(broker.port, f"{station.topic}/health") as health, station.running():
            health.until(lambda all_: any(one["counters"].get("camera_dropped", 0) > 50 for one in all_), 20)
            assert health.json()[-1]["disk_free_mb"] < 10**9
    assert station.lines() == []


CAMERA = """
station: {name: cam-07}
state: state
sources:
  - {type: camera, name: torch, url: 'rtsp://camera.invalid/x', %s}
results: {directory: results}
"""


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ("password_env: NOT_SET, username: x", "source torch: password_env: NOT_SET is not set"),
        ("password_file: none, username: x", "source torch: password_file: none: No such file or directory"),
    ],
)
def test_what_the_user_must_change_is_one_line(tmp_path: Path, keys: str, line: str) -> None:
    (tmp_path / "agent.yaml").write_text(CAMERA % keys)
    done = weldwatch("run", "--once", "--config", "agent.yaml", cwd=tmp_path)
    assert (done.returncode, done.stderr.strip()) == (2, f"weldwatch: {line}")
    assert not (tmp_path / "state").exists()


def test_a_missing_extra_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "cv2" else find(name, *rest))
    with pytest.raises(UsageError, match=r"source torch: cv2 is not installed; pip install 'weldwatch\[camera\]'"):
        grabber_of(CameraConfig(name="torch", url="rtsp://camera.invalid/x"))


def test_once_inspects_a_film_to_its_end(tmp_path: Path) -> None:
    station = Station(tmp_path, sources=[source("film", str(film(tmp_path / "film.avi", 2)), policy="all")])
    done = station.once()
    assert done.returncode == 0, done.stderr
    results = station.lines()
    assert len(results) == 50
    levels = [round(one["probability"][1] * 255) for one in results]
    assert levels == pytest.approx([40 + number for number in range(50)], abs=2)


def test_once_without_a_camera_fails_and_says_why(tmp_path: Path) -> None:
    station = Station(tmp_path, sources=[source("torch", f"rtsp://127.0.0.1:{free_port()}/x", stall_s=0.5)])
    done = station.once()
    assert done.returncode == 1
    assert "camera_stalled: torch: no frame for " in done.stderr
    assert "Connection refused" in done.stderr


def test_check_tries_cameras(tmp_path: Path) -> None:
    with mjpeg_camera() as camera:
        sources = [source("there", camera.url), source("away", f"http://127.0.0.1:{free_port()}/x")]
        station = Station(tmp_path, sources=sources)
        done = weldwatch("check", "--json", "--config", station.file)
    found = {one["name"]: one for one in json.loads(done.stdout)["findings"]}
    assert done.returncode == 1
    assert found["sources[0].url"]["state"] == "ok"
    assert found["sources[0].url"]["detail"].startswith("a frame of 320×240 after ")
    assert found["sources[1].url"]["state"] == "failed"
    assert found["sources[1].url"]["detail"] == "Connection refused"


def test_the_driver_goes_with_the_agent(tmp_path: Path) -> None:
    """Even when the agent is killed: no process that holds the camera stays behind."""
    path = film(tmp_path / "film.avi", 60)
    station = Station(tmp_path, sources=[source("film", str(path), fps=5)])
    process = station.start()
    try:
        station.wait_for(2)
        (driver,) = [stat.parent for stat in Path("/proc").glob("[0-9]*/stat") if parent(stat) == process.pid]
        assert b"agent.sources.camera.child" in (driver / "cmdline").read_bytes()
    finally:
        process.kill()
        process.wait()
    until(lambda: not (driver / "cmdline").exists() or not (driver / "cmdline").read_bytes(), "the driver to end", 5)


def parent(stat: Path) -> int:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0  # it ended while we looked
