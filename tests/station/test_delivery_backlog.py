"""A million results that nobody has delivered yet: a quick start, a fast drain, and a line that feels neither."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.clock import SystemClock
from agent.ledger import Ledger
from tests.support.backlog import fill
from tests.support.camera import CAMERA_FRAME, Camera
from tests.support.mosquitto import Mosquitto
from tests.support.station import Station, until
from tests.support.tally import Tally

pytestmark = pytest.mark.quiet

MILLION, RATE, SECONDS = 1_000_000, 20.0, 15.0
#: The broker holds nothing back for a subscriber that is slower than it, and spends no time on a log.
FAST = ["log_type none", "max_queued_messages 0", "max_inflight_messages 1000"]


@contextmanager
def counted(broker: Mosquitto, topic: str, into: Path) -> Iterator[Callable[[], list[int]]]:
    """mosquitto_sub on ``topic``, in a process of its own; gives the sequences that it has printed so far."""

    def heard() -> list[int]:
        lines = into.read_bytes().split(b"\n")[:-1]
        return [int(line.partition(b'"sequence":')[2].partition(b",")[0]) for line in lines]

    words = ["mosquitto_sub", "-V", "5", "-p", str(broker.port), "-q", "1", "-t", topic, "-F", "%p"]
    with into.open("wb") as out, subprocess.Popen(words, stdout=out) as process:
        try:
            yield heard
        finally:
            process.terminate()


@dataclass
class Day:
    """How a station did over ``SECONDS``."""

    start_s: float  #: until it watches
    inspected: float  #: results a second
    late_s: float  #: from the camera to ``…/live``, p99
    delivered: list[int]  #: sequences in the order in which they came to a subscriber of ``…/result``
    drained: float  #: of these a second


def a_day(root: Path, backlog: int) -> Day:
    """A station with so many undelivered results, its broker there from the start, a camera at ``RATE``."""
    with Mosquitto(root / "broker", lines=FAST) as broker:
        station = Station(root / "station", mqtt={"host": broker.host, "port": broker.port, "live": True})
        if backlog:
            fill(Path(station.settings["state"]), backlog, {"files": backlog, "mqtt": 0})
        results = counted(broker, f"{station.topic}/result", root / "results")
        with results as delivered, Tally(broker.port, f"{station.topic}/live") as live:
            begin = time.monotonic()
            with station.running():
                started = time.monotonic() - begin
                with Camera(station, 1 / RATE, CAMERA_FRAME) as camera:
                    until(delivered, "the first result at the subscriber")
                    first, heard, begin = len(delivered()), len(live.heard), time.monotonic()
                    time.sleep(SECONDS)  # what is measured
                    took, last, until_now = time.monotonic() - begin, delivered(), len(live.heard)
            waits = [
                at - camera.at[one.image.name]
                for one, at in zip(live.heard[heard:until_now], live.at[heard:until_now], strict=True)
            ]
    late = statistics.quantiles(waits, n=100)[98]
    return Day(started, len(waits) / took, late, last, (len(last) - first) / took)


@pytest.mark.slow
def test_a_million_undelivered_results(tmp_path: Path, figure: Callable[[str], None]) -> None:
    normal, loaded = a_day(tmp_path / "normal", 0), a_day(tmp_path / "loaded", MILLION)
    begin = time.monotonic()
    Ledger.open(tmp_path / "loaded" / "station" / "state", SystemClock()).close()
    opened = time.monotonic() - begin
    figure(
        f"ledger of a million opens in {opened:.2f} s, agent starts in {loaded.start_s:.2f} s, an empty one in "
        f"{normal.start_s:.2f} s; drains {loaded.drained:.0f} a second of a million; inspects {loaded.inspected:.1f} a "
        f"second, otherwise {normal.inspected:.1f}; live p99 {loaded.late_s * 1e3:.0f} ms, otherwise "
        f"{normal.late_s * 1e3:.0f} ms"
    )
    assert opened < 1.0
    assert loaded.start_s - normal.start_s < 1.0
    assert loaded.delivered == list(range(1, len(loaded.delivered) + 1)), "in order, each once"
    assert loaded.drained >= 5000
    assert loaded.inspected >= 0.9 * normal.inspected
    assert loaded.late_s <= normal.late_s + 0.25, "the fresh verdict does not stand in the queue"
