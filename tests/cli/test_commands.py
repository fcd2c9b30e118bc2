"""The commands as people and machines call them."""

from __future__ import annotations

import errno
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import onnxruntime
import pytest

from agent.bundle.archive import Archive
from agent.cli.main import main
from agent.model.store import resolve
from tests.support.bundles import brightness_bundle, flat_png
from tests.support.mosquitto import Mosquitto
from tests.support.ports import free_port
from tests.support.station import Station, weldwatch

SCHEMA = json.loads((Path(__file__).parents[2] / "config" / "schemas" / "result.schema.json").read_text())


@pytest.fixture
def defect_image(tmp_path: Path) -> Path:
    """A synthetic frame of a burn-through, at the camera's size."""
    from PIL import Image

    from agent.demo.scene import recording, render

    path = tmp_path / "testDefectImage.PNG"
    Image.fromarray(render(recording(4), 1, 3)).save(path)
    return path


def process(archive: Archive, name: str) -> Any:
    space: dict[str, Any] = {}
    exec(compile(archive.read(name), name, "exec"), space)  # noqa: S102  # as the vendor's workbench would
    return space["process"]


def test_predict_writes_a_json_file_that_the_bundles_own_scripts_confirm(defect_image: Path, tmp_path: Path) -> None:
    out = tmp_path / "D"
    done = weldwatch("predict", defect_image, "--out", out)
    assert done.returncode == 0, done.stderr
    (file,) = out.iterdir()
    assert re.fullmatch(r"testDefectImage_\d{8}T\d{9}Z\.json", file.name)
    result = json.loads(file.read_text())
    jsonschema.validate(result, SCHEMA)
    with Archive(resolve("weld-demo")) as archive:
        model = archive.read(archive.manifest.variants[result["model"]["variant"]].file)
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        inputs = process(archive, "weldingPreProcessing.py")(defect_image.read_bytes())
        answer = process(archive, "weldingPostProcessing.py")(session.run(None, inputs))
    assert answer["class"] == result["class"]
    assert answer["probability"] == pytest.approx(result["probability"], abs=1e-5)
    assert sum(result["probability"]) == pytest.approx(1, abs=1e-5)


def test_predict_says_which_images_it_could_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(flat_png(250))
    (tmp_path / "[bold]b.png").write_bytes(flat_png(250)[:60])
    brightness_bundle(tmp_path / "b.pipeline")
    done = weldwatch("predict", tmp_path, "--bundle", tmp_path / "b.pipeline", "--json")
    assert done.returncode == 1
    results = {Path(one["image"]["name"]).name: one for one in map(json.loads, done.stdout.splitlines())}
    assert {name: one["evaluation"] for name, one in results.items()} == {
        "a.png": "NotOK",
        "[bold]b.png": "NotDecidable",
    }
    for one in results.values():
        jsonschema.validate(one, SCHEMA)
    table = weldwatch("predict", tmp_path, "--bundle", tmp_path / "b.pipeline")
    assert "[bold]b.png" in table.stdout
    assert "unreadable_image" in table.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predict", "nowhere.png"], "nowhere.png: no such file"),
        (["predict", "."], "no images below ."),
        (["predict", "--bundle", "nowhere.pipeline", "x.png"], "no such bundle"),
        (["run", "--config", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["demo", "--frames", "0"], "must be at least 1"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_no_traceback(tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "x.png").write_bytes(flat_png(1)) if "--bundle" in arguments else None
    done = subprocess.run(
        [sys.executable, "-m", "agent.cli.main", *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_demo_ends_by_itself_and_counts_the_same_everywhere(tmp_path: Path) -> None:
    done = weldwatch("demo", "--frames", "50", "--rate", "25", "--directory", tmp_path / "d", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["inspected"], summary["json_files"], summary["mqtt_received"]) == (50, 50, 50)
    assert summary["OK"] + summary["NotOK"] + summary["NotDecidable"] == 50
    assert len(list((tmp_path / "d" / "results").glob("*/*.json"))) == 50
    for file in (tmp_path / "d" / "results").glob("*/*.json"):
        result = json.loads(file.read_text())
        jsonschema.validate(result, SCHEMA)
        assert result["simulated"] is True
        assert result["part_id"].startswith("P")


def test_demo_reaches_a_subscriber_that_is_not_ours(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "broker") as broker:
        heard = tmp_path / "heard"
        with heard.open("wb") as file:
            command = [
                "stdbuf",
                "-oL",
                "mosquitto_sub",
                "-p",
                str(broker.port),
                "-V",
                "5",
                "-q",
                "1",
                "-t",
                "weldwatch/#",
                "-F",
                "%t",
            ]
            with subprocess.Popen([*command, "-d"], stdout=file) as subscriber:
                try:
                    wait_for(heard, b"Subscribed")
                    done = weldwatch("demo", "--frames", "50", "--rate", "25", "--mqtt-port", broker.port,
                                     "--directory", tmp_path / "d", "--json")  # fmt: skip
                    assert done.returncode == 0, done.stderr
                    wait_for(heard, b"/result\n", 50)
                finally:
                    subscriber.terminate()
    assert json.loads(done.stdout.splitlines()[-1])["mqtt_received"] == 50
    assert heard.read_bytes().count(b"/result\n") == 50


def wait_for(file: Path, text: bytes, times: int = 1) -> None:
    from tests.support.station import until

    until(lambda: file.read_bytes().count(text) >= times, f"{text!r} {times} times")


def test_demo_without_a_broker_at_that_port_is_one_line(tmp_path: Path) -> None:
    done = weldwatch("demo", "--frames", "1", "--mqtt-port", free_port(), "--directory", tmp_path / "d")
    assert done.returncode == 2
    assert "is the broker running" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_tries_what_the_configuration_names(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "broker") as broker:
        station = Station(tmp_path / "s", mqtt={"host": broker.host, "port": broker.port})
        done = weldwatch("check", "--config", station.file, "--json")
        assert done.returncode == 0, done.stdout
        assert all(finding["state"] != "failed" for finding in json.loads(done.stdout)["findings"])
    station.captures.rmdir()
    done = weldwatch("check", "--config", station.file, "--json")
    assert done.returncode == 1
    failed = {one["name"]: one for one in json.loads(done.stdout)["findings"] if one["state"] == "failed"}
    assert set(failed) == {"sources[0].path", "mqtt"}
    assert all(one["remedy"] for one in failed.values())
    shown = weldwatch("check", "--config", station.file)
    assert "FAILED   mqtt:" in shown.stdout


def test_check_of_a_wrong_configuration_is_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "agent.yaml").write_text("state: x\nstate: y\n")
    done = weldwatch("check", "--config", tmp_path / "agent.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert "agent.yaml: line 2: the key 'state' stands here a second time" in done.stderr


def test_a_configuration_in_a_folder_that_is_closed_to_us_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As /etc/weldwatch is to whoever is not in the agent's group."""

    def closed(self: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "is_file", closed)
    assert main(["log", "--config", "closed/agent.yaml"]) == 2
    assert capsys.readouterr().err == (
        "weldwatch: closed/agent.yaml: Permission denied; call it as a user who may read it: one of the agent's group, "
        "or with sudo\n"
    )
