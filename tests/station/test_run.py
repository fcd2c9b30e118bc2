"""The agent at its boundary: files in, JSON out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from agent.result import new_result_id
from tests.support.bundles import flat_png, png
from tests.support.station import WELDWATCH, Station, until, weldwatch

SCHEMAS = Path(__file__).parents[2] / "config" / "schemas"


@pytest.fixture
def station(tmp_path: Path) -> Station:
    return Station(tmp_path)


def test_an_image_becomes_one_result_on_disk(station: Station) -> None:
    data = flat_png(200, (1280, 700))
    station.settings["sources"][0]["name_pattern"] = r"(?P<part_id>[^_]+)_(?P<job_id>[^_]+)_(?P<frame>\d+)"
    station.settings["station"] = {
        "name": "cam-07",
        "enterprise": "acme",
        "site": "detroit",
        "area": "body",
        "line": "3",
    }
    station.write()
    station.put("shift1/A17_J9_0042.png", data)
    done = station.once()
    assert done.returncode == 0, done.stderr
    (result,) = station.files()
    assert station.lines() == [result]
    jsonschema.validate(result, json.loads((SCHEMAS / "result.schema.json").read_text()))
    assert result["class"] == "defect"
    assert result["evaluation"] == "NotOK"
    assert result["probability"] == pytest.approx([55 / 255, 200 / 255], abs=1e-3)
    assert (result["part_id"], result["job_id"], result["weld_id"], result["frame"]) == ("A17", "J9", None, "0042")
    assert result["station"] == {**station.settings["station"]}
    image = result["image"]
    assert (image["name"], image["width"], image["height"]) == ("shift1/A17_J9_0042.png", 1280, 700)
    assert image["bytes"] == len(data)
    assert result["sequence"] == 1
    (file,) = station.results.glob("*/*.json")
    assert file.name.startswith("A17_J9_0042_2")
    assert file.parent.name == result["created_at"][:10]


def test_what_cannot_be_inspected_is_not_decidable_and_stops_nothing(station: Station) -> None:
    station.settings["sources"][0]["incomplete_s"] = 0.3
    station.write()
    good = flat_png(30)
    (station.captures / "x.png").mkdir()
    os.mkfifo(station.captures / "pipe.png")
    (station.captures / "link.png").symlink_to("/etc/passwd")
    station.put("a_empty.png", b"")
    station.put("b_cut.png", png(np.random.default_rng(1).integers(0, 255, (90, 90), dtype=np.uint8))[:3000])
    station.put("c_text.png", b"not an image at all")
    station.put("x.png/inside.png", good)
    station.put("z_good.png", good)
    done = station.once()
    assert done.returncode == 0, done.stderr
    verdicts = {line["image"]["name"]: line["evaluation"] for line in station.lines()}
    assert verdicts == {"a_empty.png": "NotDecidable", "b_cut.png": "NotDecidable", "c_text.png": "NotDecidable",
                        "x.png/inside.png": "OK", "z_good.png": "OK"}  # fmt: skip
    for line in station.lines():
        if line["evaluation"] == "NotDecidable":
            assert (line["class"], line["probability"], line["image"]["width"]) == (None, None, None)
            assert line["reasons"][0]["code"] in ("unreadable_image", "unsupported_format")
    assert "Traceback" not in done.stderr
    for odd in ("x.png", "pipe.png", "link.png"):
        assert odd in done.stderr, "the log says why there is no result"


def test_a_second_run_inspects_only_what_is_new(station: Station) -> None:
    for number in range(5):
        station.put(f"{number}.png", flat_png(10 * number))
    assert station.once().returncode == 0
    station.put("2.png", flat_png(99))
    station.put("copy.png", flat_png(10))
    assert station.once().returncode == 0
    names = Counter(line["image"]["name"] for line in station.lines())
    assert names == {"0.png": 1, "1.png": 1, "2.png": 2, "3.png": 1, "4.png": 1, "copy.png": 1}
    assert [line["sequence"] for line in station.lines()] == list(range(1, 8))


def test_sigterm_finishes_what_is_claimed(station: Station) -> None:
    with station.running():
        for number in range(40):
            station.put(f"{number}.png", flat_png(number))
        station.wait_for(1)
    taken = len(station.lines())
    assert taken == len(station.files())
    assert station.once().returncode == 0
    assert len({line["image"]["name"] for line in station.lines()}) == len(station.lines()) == 40


def test_a_second_agent_in_one_state_folder_names_the_first(station: Station) -> None:
    with station.running() as first:
        second = station.once()
        assert second.returncode == 2
        assert f"pid {first.pid}, station cam-07" in second.stderr
        assert len(second.stderr.strip().splitlines()) == 1


def test_a_lock_left_behind_by_a_kill_does_not_matter(station: Station) -> None:
    process = station.start()
    until(lambda: (station.root / "state" / "agent.lock").exists(), "the lock")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert station.once().returncode == 0


def test_a_capture_folder_that_comes_later_is_taken_up(station: Station) -> None:
    station.captures.rmdir()
    with station.running():
        until(lambda: b"create or mount it" in station.log.read_bytes(), "one line about the missing folder")
        station.put("late.png", flat_png(1))
        station.wait_for(1)


def test_archive_moves_what_is_durable(station: Station) -> None:
    archive = station.root / "archive"
    station.settings["sources"][0].update(after="archive", archive=str(archive))
    station.write()
    station.put("shift1/a.png", flat_png(1))
    assert station.once().returncode == 0
    assert (archive / "shift1" / "a.png").read_bytes() == flat_png(1)
    assert not (station.captures / "shift1" / "a.png").exists()
    assert len(station.lines()) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sorces": []}, "sorces: unknown key; did you mean 'sources'?"),
        ({"bundle": {"initial": "/nowhere/x.pipeline"}}, "/nowhere/x.pipeline: no such bundle"),
        ({"bundle": {"device": "tpu"}}, "bundle.device: found 'tpu'; allowed: auto, cpu, cuda, openvino, tensorrt"),
        ({"results": {"directory": "/proc/nowhere"}}, "results.directory: /proc/nowhere:"),
        ({"state": ""}, "state: found ''"),
        ({"mqtt": {"host": "x", "password": "secret"}}, "mqtt.password: unknown key"),
        ({"mqtt": {"host": "x", "commands": ["reboot"]}}, "mqtt.commands[0]: found 'reboot'; allowed: "),
        ({"mqtt": {"host": "x", "topic": "a/{station.foo}"}}, "mqtt.topic: found 'a/{station.foo}'"),
        ({"station": {"name": "cam\n"}}, "station.name: found"),
        ({"results": {"directory": "/tmp", "keep_days": 10**6}}, "results.keep_days: found 1000000"),
    ],
)
def test_a_wrong_configuration_is_one_line_and_exit_code_2(
    station: Station, change: dict[str, object], said: str
) -> None:
    station.settings.update(change)
    station.write()
    done = station.once()
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "secret" not in done.stderr


def test_one_folder_is_one_sources(station: Station) -> None:
    captures = station.settings["sources"][0]
    (station.captures / "shift1").mkdir()
    for path in (captures["path"], captures["path"] + "/shift1", str(station.root)):
        station.settings["sources"] = [captures, {**captures, "name": "two", "path": path}]
        station.write()
        done = station.once()
        assert done.returncode == 2
        assert "sources[1].path: found" in done.stderr
        assert "'captures' watches it already" in done.stderr


def test_the_agent_writes_nothing_into_a_capture_folder(station: Station) -> None:
    station.settings["results"] = {"directory": str(station.captures / "results")}
    station.write()
    done = station.once()
    assert (done.returncode, "must lie outside the watched folder" in done.stderr) == (2, True)


@pytest.fixture
def closed(station: Station) -> Iterator[Path]:
    """A folder below the capture folder that its owner may not read."""
    folder = station.captures / "shift1"
    folder.mkdir()
    folder.chmod(0)
    yield folder
    folder.chmod(0o700)


@pytest.mark.parametrize("which", ["the capture folder", "one below it"])
def test_once_fails_where_it_may_not_read_a_folder(station: Station, closed: Path, which: str) -> None:
    station.put("good.png", flat_png(200))
    if which == "the capture folder":
        closed = station.captures
        closed.chmod(0)
    root = os.geteuid() == 0  # who may read everything, unless that is taken from him
    under = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if root else []
    command = [*under, *WELDWATCH, "run", "--once", "--config", str(station.file)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    finally:
        closed.chmod(0o700)
    assert done.returncode == 1, done.stderr
    name = closed if closed == station.captures else closed.name
    (said,) = (line for line in done.stderr.splitlines() if " ERROR " in line)
    assert f"folder_unreadable: {name}: Permission denied; give the agent's user read and search permission" in said
    assert len(station.lines()) == (which != "the capture folder")


def test_a_file_name_cannot_forge_a_line_of_the_log(station: Station) -> None:
    station.settings["sources"][0]["incomplete_s"] = 0.0
    station.write()
    station.put("a\nTraceback\n10:22:05 ERROR   forged \x1b[31m.png", b"no image")
    done = station.once()
    assert done.returncode == 0
    assert "\x1b" not in done.stderr
    assert not [line for line in done.stderr.splitlines() if line.startswith("10:22:05 ERROR")]
    assert len(station.lines()) == 1


def test_the_runtime_reports_to_nobody(station: Station) -> None:
    """onnxruntime's wheels look for their maker's server and keep a device id, unless they are told not to."""
    station.put("a.png", flat_png(1))
    trace = station.root / "trace"
    command = ["strace", "-f", "-e", "trace=connect,openat", "-o", str(trace), *WELDWATCH, "run", "--config",
               str(station.file)]  # fmt: skip
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, start_new_session=True, **quiet) as process:
        try:
            station.wait_for(1)
            time.sleep(5)  # the first report would come a few seconds after the start
            agent = int((station.root / "state" / "agent.lock").read_text().split()[1].rstrip(","))
            os.kill(agent, signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    text = trace.read_text(errors="replace")
    assert "agent.lock" in text
    assert "AF_INET" not in text
    assert "DeveloperTools" not in text


def test_no_configuration_says_where_it_was_looked_for(tmp_path: Path) -> None:
    done = weldwatch("run", cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})
    assert done.returncode == 2
    assert "/etc/weldwatch/agent.yaml" in done.stderr
    assert "weldwatch demo" in done.stderr


def test_result_ids_are_version_7_and_sort_by_time() -> None:
    ids = [new_result_id(1_700_000_000_000 + number) for number in range(100)]
    assert ids == sorted(ids)
    assert all(one[14] == "7" and one[19] in "89ab" for one in ids)
