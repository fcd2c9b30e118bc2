"""At one result a second the station costs next to nothing: a share of a core, and what it writes to the disk."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.camera import CAMERA_FRAME
from tests.support.mosquitto import Mosquitto
from tests.support.networks import mobilenet_bundle
from tests.support.station import Station
from tests.support.volumes import in_own_mounts, quiet_disk

pytestmark = pytest.mark.quiet

SECONDS = 40


def cpu_s(pid: int) -> float:
    """CPU time of a process so far, its own and the kernel's for it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def written(pid: int) -> int:
    """Bytes that a process caused to be sent to a disk: a page counts each time that it is changed after a sync."""
    facts = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(facts["write_bytes"]) - int(facts["cancelled_write_bytes"])


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.training
@in_own_mounts
def test_one_result_a_second_costs_three_percent_of_a_core_and_40_kb_written(
    tmp_path: Path, figure: Callable[[str], None]
) -> None:
    bundle = tmp_path / "alpha025.pipeline"
    mobilenet_bundle(bundle, 0.25, "fp32")
    with Mosquitto(tmp_path / "broker") as broker:
        mqtt = {"host": broker.host, "port": broker.port}
        station = Station(quiet_disk(tmp_path / "s", 64), mqtt=mqtt, bundle={"initial": str(bundle)})
        with station.running() as agent:
            station.put("first.png", CAMERA_FRAME)
            station.wait_for(1)
            cpu, disk = cpu_s(agent.pid), written(agent.pid)
            begin = time.monotonic()
            for number in range(SECONDS):
                time.sleep(max(0.0, begin + number - time.monotonic()))  # the camera's pace
                station.put(f"{number}.png", CAMERA_FRAME)
            station.wait_for(SECONDS + 1)
            took = time.monotonic() - begin
            share, each = (cpu_s(agent.pid) - cpu) / took, (written(agent.pid) - disk) / SECONDS
    figure(f"{share:.1%} of a core, {each / 1000:.1f} kB written a result, over {took:.0f} s")
    assert share <= 0.03
    assert each <= 40_000
