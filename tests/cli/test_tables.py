"""What people read in columns fits 80 of them on a terminal; piped, a row is a line and nothing else."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.bundles import brightness_bundle, flat_png
from tests.support.station import WELDWATCH, Station, weldwatch

LONG = "shift-of-the-night/" * 4 + "P0001_J0001_0001.png"


def on_a_terminal(*command: object) -> list[str]:
    """The lines that a terminal of 80 columns is given, without their colours."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    said = b""
    with subprocess.Popen([*map(str, command)], stdout=theirs, stderr=subprocess.DEVNULL, env=environment) as process:
        os.close(theirs)
        while chunk := _read(ours):
            said += chunk
        os.close(ours)
        assert process.wait(60) == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", said.decode()).splitlines()


def _read(ours: int) -> bytes:
    try:
        return os.read(ours, 65536)
    except OSError:  # EIO: the other side is closed
        return b""


def fits(lines: list[str]) -> None:
    assert lines
    assert max(map(len, lines)) <= 80, max(lines, key=len)


def is_plain(text: str) -> None:
    assert text
    assert "\x1b" not in text
    assert [line for line in text.splitlines() if line != line.rstrip()] == []


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Station:
    """A station that has judged images of long names, some of which are none."""
    station = Station(tmp_path_factory.mktemp("station"))
    station.settings["sources"][0]["incomplete_s"] = 0.0
    station.write()
    station.put(LONG, flat_png(200))
    station.put(f"broken-{'very-' * 12}image.png", b"no image")
    assert station.once().returncode == 0
    return station


@pytest.mark.parametrize("more", [[], ["--stats"]], ids=["lines", "--stats"])
def test_log(station: Station, more: list[str]) -> None:
    command = ["log", "--config", station.file, *more]
    fits(on_a_terminal(*WELDWATCH, *command))
    piped = weldwatch(*command).stdout
    is_plain(piped)
    if not more:
        assert LONG in piped
        assert len(piped.splitlines()) == 3, "a line a result, below the head"
        assert LONG.encode() in b"".join(one.encode().strip() for one in on_a_terminal(*WELDWATCH, *command))


def test_bundle_list(station: Station) -> None:
    name = f"brightness-{'of-a-long-name-' * 3}1-1.0.0.pipeline"
    brightness_bundle(station.root / name, name=name.removesuffix("-1.0.0.pipeline"))
    installed = weldwatch("bundle", "install", station.root / name, "--config", station.file)
    assert installed.returncode == 0, installed.stderr
    command = ["bundle", "list", "--config", station.file]
    fits(on_a_terminal(*WELDWATCH, *command))
    is_plain(weldwatch(*command).stdout)


def test_bundle_inspect() -> None:
    fits(on_a_terminal(*WELDWATCH, "bundle", "inspect", "weld-demo"))
    is_plain(weldwatch("bundle", "inspect", "weld-demo").stdout)


def test_predict(tmp_path: Path) -> None:
    for number, data in enumerate((flat_png(200), flat_png(10))):
        (tmp_path / f"{'a-name-' * 12}{number}.png").write_bytes(data)
    brightness_bundle(tmp_path / "b.pipeline")
    command = ["predict", tmp_path, "--bundle", tmp_path / "b.pipeline"]
    fits(on_a_terminal(*WELDWATCH, *command))
    piped = weldwatch(*command).stdout
    is_plain(piped)
    assert len(piped.splitlines()) == 3


_BENCH = """
from agent.cli.bench import _show
from agent.cli.bench.stages import Measured
told = {"machine": "m", "frames": "f", "bundle": "b", "advice": "long advice, " * 20 + "end"}
names = ("result files and log lines, 20 together", "inference fp32-of-the-large-network on tensorrt")
_show(told, [Measured(names[0], [12345.0]), Measured(names[1], [1.0]),
             Measured("MQTT to the embedded broker", note="it needs the extra demo: make", per_second=123456.0)])
"""


def test_bench() -> None:
    fits(on_a_terminal(sys.executable, "-c", _BENCH))
    piped = subprocess.run([sys.executable, "-c", _BENCH], capture_output=True, text=True, check=True).stdout
    is_plain(piped)
    assert len(piped.splitlines()) == 8
