"""The whole agent under strace: nothing relies on what a power cut could still undo, and a slow disk keeps up."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.camera import Camera
from tests.support.mosquitto import Mosquitto
from tests.support.sqlite_pages import rows
from tests.support.station import Station, until
from tests.support.tally import Tally
from tests.support.trace import SYNCS, Step, steps, strace

pytestmark = pytest.mark.quiet

MOVES = ("rename", "renameat", "renameat2", "unlink", "unlinkat", "link", "linkat")
AFTER = [pytest.param({"after": "archive"}, id="archive"), pytest.param({"after": "delete"}, id="delete")]


def a_station(root: Path, broker: Mosquitto, **source: Any) -> Station:
    station = Station(root, mqtt={"host": broker.host, "port": broker.port})
    if source.get("after") == "archive":
        source["archive"] = str(root / "archive")
    station.settings["sources"][0].update(source)
    station.write()
    return station


@contextlib.contextmanager
def under_strace(station: Station, words: Sequence[str]) -> Iterator[None]:
    """The agent under strace; ended as a service manager does, for strace itself passes no signal on."""
    process = station.start(under=words)
    try:
        until(lambda: b" watches " in station.log.read_bytes(), "the agent to start", 60)
        yield
        lock = Path(station.settings["state"]) / "agent.lock"
        os.kill(int(lock.read_text().split()[1].rstrip(",")), signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("source", AFTER)
def test_each_step_is_synced_before_the_next_one_relies_on_it(tmp_path: Path, source: dict[str, Any]) -> None:
    trace, count = tmp_path / "trace", 40
    with Mosquitto(tmp_path / "broker") as broker:
        station = a_station(tmp_path / "station", broker, **source)
        words = strace(trace, [*SYNCS, *MOVES, "write", "pwrite64", "sendto"])
        with Tally(broker.port, f"{station.topic}/result") as tally, under_strace(station, words):
            with Camera(station, 0.05) as camera:
                until(lambda: len(camera.names) >= count, "the camera")
            station.wait_for(len(camera.names))
            tally.until(lambda: len(tally.heard) >= len(camera.names), "all on MQTT")
    done = steps(trace)
    cursors = list(cursors_of_files(done, root_page(Path(station.settings["state"]) / "ledger.sqlite3")))
    for result in station.lines():
        check(done, result, station, cursors)


def root_page(ledger: Path) -> int:
    with contextlib.closing(sqlite3.connect(ledger)) as connection:
        return int(connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'sinks'").fetchone()[0])


def cursors_of_files(done: list[Step], root: int) -> Iterator[tuple[int, int]]:
    """(place in the trace, cursor of the sink ``files``) for each time that it went into the ledger's WAL."""
    page = 0
    for place, step in enumerate(done):
        if step.call == "pwrite64" and step.names("-wal"):
            (text,) = step.strings
            if len(text) == 24:  # a frame's header; the page follows
                page = int.from_bytes(text[:4], "big")
            elif page == root:
                yield place, {name: cursor for name, cursor, _ in rows(text)}.get("files", 0)


def check(done: list[Step], result: dict[str, Any], station: Station, cursors: list[tuple[int, int]]) -> None:
    one = result["result_id"]
    capture = result["image"]["name"].rpartition("/")[2]
    committed = synced(
        done, first(done, lambda step: step.call == "pwrite64" and step.names(one)), "ledger.sqlite3-wal"
    )
    assert committed < first(done, lambda step: step.call in MOVES and step.names(capture)), (
        "then the capture is let go"
    )
    assert committed < first(done, lambda step: step.call == "sendto" and step.names(one)), "then it is published"
    written = first(done, lambda step: step.call == "write" and step.names(f"/.{one}.tmp"))
    assert committed < written
    placed = first(done, lambda step: step.call.startswith("link") and step.names(one))
    assert synced(done, written, f"/.{one}.tmp", str(station.results)) < placed, "whole before it has its name"
    day = result["created_at"][:10]
    named = synced(done, placed, f"/results/{day}")
    line = first(done, lambda step: step.call == "write" and step.names(".jsonl") and step.names(one))
    logged = synced(done, line, f"/results/{day}.jsonl")
    passed = min(place for place, cursor in cursors if cursor >= result["sequence"])
    assert max(named, logged) < passed, "the cursor moves last"


def first(done: list[Step], what: Callable[[Step], bool]) -> int:
    return next(place for place, step in enumerate(done) if what(step))


def synced(done: list[Step], after: int, *ends: str) -> int:
    """Where the first sync of one of these paths that was begun after a step had returned."""
    return next(
        place
        for place, step in enumerate(done)
        if step.call in SYNCS and step.began > done[after].began and step.paths[0].endswith(ends)
    )


@pytest.mark.slow
@pytest.mark.parametrize("source", AFTER)
def test_with_a_sync_of_10_ms_the_station_keeps_up_with_20_frames_a_second(
    tmp_path: Path, source: dict[str, Any], figure: Callable[[str], None]
) -> None:
    trace, count = tmp_path / "trace", 300
    slow = f"inject={','.join(SYNCS)}:delay_exit=10000"
    with Mosquitto(tmp_path / "broker") as broker:
        station = a_station(tmp_path / "station", broker, **source)
        words = strace(trace, SYNCS, "-e", slow, follow_bytes=0)
        with Tally(broker.port, f"{station.topic}/result") as tally, under_strace(station, words):
            before = len(steps(trace))
            with Camera(station, 0.05) as camera:
                until(lambda: len(camera.names) >= count, "the camera")
            ended = time.monotonic()
            station.wait_for(len(camera.names))
            tally.until(lambda: len(tally.heard) >= len(camera.names), "all on MQTT")
            late = time.monotonic() - ended
            each = (len(steps(trace)) - before) / len(camera.names)
        waits = [at - camera.at[one.image.name] for one, at in zip(tally.heard, tally.at, strict=True)]
    p99 = statistics.quantiles(waits, n=100)[98]
    figure(f"{each:.2f} syncs an image; camera to MQTT p99 {p99 * 1e3:.0f} ms; all done {late:.2f} s after the last")
    assert each <= 2
    assert p99 <= 1.0, "no backlog builds up"
    assert late <= 2.0
