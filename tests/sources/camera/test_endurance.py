"""An hour of camera time, compressed: memory, handles, threads, processes and saved frames stay where they were."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.sources.camera.test_station import source
from tests.support.mjpeg import mjpeg_camera, part, stamped_jpeg
from tests.support.station import Station, memory_mb, until

pytestmark = pytest.mark.quiet

WARM = 3000  #: frames until the ledger's caches and the allocator have what they keep
FRAMES = WARM + 3600  #: an hour at one a second
BYTES = 1060  #: no result has more
BREAK_AFTER = 20  #: frames after which the other camera breaks off


def long_film(path: Path) -> Path:
    import cv2

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (320, 240))
    pictures = [np.random.default_rng(number).integers(0, 250, (240, 320, 3), np.uint8) for number in range(8)]
    for number in range(FRAMES + FRAMES // 4):
        writer.write(pictures[number % len(pictures)])
    writer.release()
    return path


def breaking(out: Any, stop: threading.Event) -> None:
    for _ in range(BREAK_AFTER):
        out.write(part(stamped_jpeg()))
        if stop.wait(0.02):
            return


def used(pid: int) -> dict[str, float]:
    tasks = Path(f"/proc/{pid}/task")
    children = [child for task in tasks.iterdir() for child in (task / "children").read_text().split()]
    return {
        "memory": memory_mb(pid),
        "handles": least_handles(pid),
        "threads": len(list(tasks.iterdir())),
        "processes": len(children),
        "memory of the driver": max((memory_mb(int(child)) for child in children), default=0),
    }


def least_handles(pid: int) -> int:
    """The fewest of some looks: a connection that comes and goes holds three of them."""
    counts = []
    for _ in range(20):
        counts.append(len(list(Path(f"/proc/{pid}/fd").iterdir())))
        time.sleep(0.05)
    return min(counts)


@pytest.mark.slow
def test_an_hour_of_camera_time(tmp_path: Path) -> None:
    with mjpeg_camera() as camera:
        camera.send = breaking
        sources = [
            source("film", str(long_film(tmp_path / "film.avi")), policy="all", keep_gb=0.02, format="jpeg"),
            source("breaking", camera.url),
        ]
        results = {"directory": str(tmp_path / "results"), "min_free_mb": 0, "per_image": False}
        station = Station(tmp_path, sources=sources, results=results)

        def have(count: int) -> bool:
            """By the length of the log, which costs nothing to look at."""
            return sum(path.stat().st_size for path in station.results.glob("*.jsonl")) > count * BYTES

        with station.running() as process:
            until(lambda: have(WARM), "the station to be warm", 60)
            before, connections = used(process.pid), camera.connections
            until(lambda: have(FRAMES), "an hour of frames", 100)
            after = used(process.pid)
            assert camera.connections > connections + 10
        assert len(station.lines()) >= FRAMES
    assert after["memory"] < before["memory"] * 1.05 + 3, (before, after)
    assert after["memory of the driver"] < before["memory of the driver"] * 1.05 + 3, (before, after)
    assert after["handles"] <= before["handles"] + 3, (before, after)
    assert after["threads"] <= before["threads"] + 1, (before, after)
    assert after["processes"] == before["processes"] == 1
