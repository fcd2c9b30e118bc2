"""A disk filled to the last byte in mid-work: nothing stored is lost, nothing half is seen, work resumes by itself."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.camera import Camera
from tests.support.filler import Filler
from tests.support.mosquitto import Mosquitto
from tests.support.station import Station, until
from tests.support.tally import Tally
from tests.support.volumes import in_own_mounts, volume

pytestmark = pytest.mark.quiet

MEGABYTES, FULL_S, RESUME_S = 16, 3.0, 5.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("disks", "filled"),
    [
        pytest.param(1, [0], id="one disk"),
        pytest.param(2, [0], id="the disk of the state"),
        pytest.param(2, [1], id="the disk of the results"),
        pytest.param(2, [0, 1], id="both disks"),
    ],
)
@in_own_mounts
def test_a_disk_filled_to_the_last_byte(
    tmp_path: Path, disks: int, filled: list[int], figure: Callable[[str], None]
) -> None:
    volumes = [volume(tmp_path / f"disk {number}", MEGABYTES) for number in range(disks)]
    state, results = volumes[0] / "state", volumes[-1] / "results"
    with Mosquitto(tmp_path / "broker") as broker:
        station = Station(
            tmp_path / "station",
            state=str(state),
            results={"directory": str(results), "min_free_mb": 0},
            mqtt={"host": broker.host, "port": broker.port},
        )
        station.results = results
        with Tally(broker.port, f"{station.topic}/result") as tally, Camera(station, 0.02) as camera:
            agent = station.start()
            try:
                station.wait_for(50)
                with contextlib.ExitStack() as full:
                    for number in filled:
                        full.enter_context(Filler(volumes[number]))
                    until(lambda: no_longer_working(station), "the alarm that the disk is full", 20)
                    agent.kill()  # and on such a disk it starts again, too
                    agent.wait()
                    agent = station.start()
                    time.sleep(FULL_S)  # it is given time to do harm
                    assert agent.poll() is None, station.log.read_text()
                    only_whole_files(results)
                freed, before = time.monotonic(), len(station.lines())
                until(lambda: len(station.lines()) > before, "work to go on", RESUME_S)
                figure(f"on again {time.monotonic() - freed:.2f} s after there was space")
                camera.stop()
                station.wait_for(len(camera.names))
                tally.until(lambda: len(tally.first_heard()) >= len(camera.names), "all on MQTT")
            finally:
                agent.kill()
                agent.wait()
        heard, files, lines = tally.first_heard(), station.files(), station.lines()
        assert [one.sequence for one in heard] == list(range(1, len(camera.names) + 1))
        assert [one["result_id"] for one in lines] == [one.result_id for one in heard]
        assert Counter(one["result_id"] for one in files) == Counter(one.result_id for one in heard)
        only_whole_files(results)


def no_longer_working(station: Station) -> bool:
    log = station.log.read_bytes()
    return b"ledger_full" in log or b"files_undelivered" in log


def only_whole_files(results: Path) -> None:
    """Nothing that a program looking for results would take for one is empty or half."""
    for path in results.glob("*/*.json"):
        assert path.read_bytes().endswith(b"}\n"), path
