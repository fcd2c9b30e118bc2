"""``weldwatch bench``: every stage is measured with the agent's own code, and what it advises follows from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.cli import bench, main
from agent.cli.bench import stages
from agent.cli.bench.stages import Measured
from tests.support.bundles import brightness_bundle, flat_png
from tests.support.station import weldwatch


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in (("_ROUNDS", 3), ("_WHOLE", 20), ("_MQTT", 50), ("_DISTINCT", 2)):
        monkeypatch.setattr(stages, name, count)


@pytest.mark.usefixtures("few")
def test_machines_get_every_stage(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main.main(["bench", "--json", "--directory", str(tmp_path)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["synthetic"] is True
    assert "synthetic" in told["frames"]
    names = [stage["name"] for stage in told["stages"]]
    assert names[:2] == ["decode", "preprocess"]
    assert {"inference fp32 on cpu", "inference int8 on cpu", "ledger commit, with its sync", "the whole agent",
            "MQTT to the embedded broker"} <= set(names)  # fmt: skip
    assert all(stage["per_second"] > 0 for stage in told["stages"])
    assert all(0 < stage["p50_ms"] <= stage["p99_ms"] for stage in told["stages"] if stage["p50_ms"] is not None)
    assert told["frames_per_second"] > 1
    assert list(tmp_path.iterdir()) == [], "it cleans up"


@pytest.mark.usefixtures("few")
def test_people_see_their_own_frames_and_bundle(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(flat_png(100 + number))
    (tmp_path / "notes.txt").write_text("no image")
    bundle = tmp_path / "brightness-1.0.0.pipeline"
    brightness_bundle(bundle)
    assert main.main(["bench", "--frames", str(tmp_path), "--bundle", str(bundle)]) == 0
    shown = capsys.readouterr().out
    assert "synthetic" not in shown
    assert "bundle brightness 1.0.0" in shown
    assert "This machine" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--frames", "nowhere"], "no image"),
        (["--bundle", "nowhere"], "nowhere"),
        (["--directory", "no"], "--directory"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], said: str) -> None:
    done = weldwatch("bench", *arguments)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert said in done.stderr


def test_the_advice_follows_from_the_figures() -> None:
    slow = Measured("decode", [30.0], remedy="smaller frames")
    path = [slow, Measured("inference", [2.0]), Measured("files", [500.0], on_the_way=False)]
    assert bench.cameras(100) == 8
    assert bench.advice(100, path) == (
        "This machine keeps up with 8 cameras at 10 frames a second (100 in all). "
        "decode takes longest, 30.0 ms: smaller frames."
    )
    assert bench.advice(9, path).startswith("This machine does not keep up with a camera at 10")
