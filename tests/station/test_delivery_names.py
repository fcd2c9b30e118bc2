"""Names as cameras and people give them, through every sink: on MQTT, as files, in the daily log, read back by jq."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests.support.bundles import flat_png
from tests.support.mosquitto import Listener, Mosquitto
from tests.support.station import Station, until

#: Bytes of a file's name → how the result calls it.
NAMES = {
    b"plain.png": "plain.png",
    b"caf\xc3\xa9 \xe6\x9c\xaa\xe6\x9d\xa5.png": "café 未来.png",
    b"latin-\xe9\xff.png": "latin-\\xe9\\xff.png",
    b"line\nbreak\ttab.png": "line\nbreak\ttab.png",
    b"x" * 251 + b".png": "x" * 251 + ".png",
    "é".encode() * 125 + b".png": "é" * 125 + ".png",
    b"\xff" * 251 + b".png": "\\xff" * 251 + ".png",
    b'quote"and,comma;=1+2.png': 'quote"and,comma;=1+2.png',
    b"back\\slash %41.png": "back\\slash %41.png",
    "\u202egnp.exe.png".encode(): "\u202egnp.exe.png",
    b"-rf.png": "-rf.png",
}


def put(captures: Path, name: bytes, data: bytes) -> None:
    hidden = os.fsencode(captures) + b"/.part"
    with open(hidden, "wb") as file:  # noqa: PTH123  # a path in bytes
        file.write(data)
    os.rename(hidden, os.fsencode(captures) + b"/" + name)  # noqa: PTH104  # as above


def test_every_name_reaches_every_sink_and_jq_reads_the_log(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "broker") as broker:
        station = Station(tmp_path / "station", mqtt={"host": broker.host, "port": broker.port})
        with Listener(broker.port, f"{station.topic}/result") as listener, station.running():
            for number, name in enumerate(NAMES):
                put(station.captures, name, flat_png(number))
            station.wait_for(len(NAMES))
            heard = listener.until(lambda heard: len({one["result_id"] for one in heard}) == len(NAMES))
    wanted = sorted(NAMES.values())
    assert sorted({one["result_id"]: one["image"]["name"] for one in heard}.values()) == wanted
    assert sorted(one["image"]["name"] for one in station.files()) == wanted
    assert sorted(one["image"]["name"] for one in station.lines()) == wanted
    made = os.listdir(os.fsencode(next(station.results.glob("????-??-??/"))))  # noqa: PTH208  # bytes again
    assert len(made) == len(NAMES)
    assert all(len(name) <= 255 and name.decode().isprintable() and not name.startswith(b".") for name in made)
    (log,) = station.results.glob("*.jsonl")
    assert log.read_bytes().count(b"\n") == len(NAMES), "a line is a line, whatever the name"
    rows = ["-r", "[.sequence, .image.name, .evaluation, .probability[1]] | @csv", str(log)]
    names = subprocess.run(["jq", "-c", ".image.name", str(log)], capture_output=True, check=True).stdout
    assert sorted(json.loads(line) for line in names.splitlines()) == wanted
    assert subprocess.run(["jq", *rows], capture_output=True, check=True).stdout.count(b'"OK"') == len(NAMES)


def test_a_log_taken_away_in_mid_work_is_begun_anew(tmp_path: Path) -> None:
    """A technician moves the day's log, as logrotate would: what comes goes into a new one, and no line is lost."""
    station = Station(tmp_path / "station")
    with station.running():
        for number in range(5):
            station.put(f"a{number}.png", flat_png(number))
        station.wait_for(5)
        (log,) = station.results.glob("*.jsonl")
        taken = log.rename(tmp_path / "taken.jsonl")
        for number in range(5):
            station.put(f"b{number}.png", flat_png(number))
        until(lambda: log.exists() and log.read_bytes().count(b"\n") == 5, "the lines in a new log")
    kept = [json.loads(line)["sequence"] for path in (taken, log) for line in path.read_bytes().splitlines()]
    assert kept == list(range(1, 11))
