"""The agent stays light: no TensorFlow, quick to the first result, small in memory."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.support.bundles import png
from tests.support.mosquitto import Mosquitto
from tests.support.networks import mobilenet_bundle
from tests.support.station import Station, memory_mb, until

pytestmark = pytest.mark.quiet

CAMERA_FRAME = png(np.random.default_rng(2).normal(90, 12, (700, 1280)).clip(0, 255).astype(np.uint8))

LOOK_AT_MODULES = """
import json, sys
from agent.cli.main import main
code = main(["run", "--once", "--config", sys.argv[1]])
print(json.dumps({"code": code, "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
"""


def test_the_running_agent_never_loads_tensorflow_nor_what_it_does_not_need(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "broker") as broker:
        station = Station(tmp_path / "s", mqtt={"host": broker.host, "port": broker.port})
        station.put("a.png", CAMERA_FRAME)
        done = subprocess.run(
            [sys.executable, "-c", LOOK_AT_MODULES, str(station.file)], capture_output=True, text=True
        )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["code"] == 0, done.stderr
    assert len(station.lines()) == 1
    heavy = {"tensorflow", "keras", "tf2onnx", "onnx", "training", "sklearn", "scipy", "matplotlib", "cv2", "rich"}
    assert heavy.isdisjoint(found["modules"])


def test_help_loads_nothing_heavy() -> None:
    code = "import sys; from agent.cli.main import main\ntry: main(['run', '--help'])\nexcept SystemExit: pass\n"
    code += "print(sorted(n for n in ('numpy', 'onnxruntime', 'PIL', 'paho', 'msgspec') if n in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_first_result_within_a_second_of_a_cold_start(tmp_path: Path) -> None:
    """The median of five starts, from the process's first instruction to the file on disk; the image lies there."""
    took = []
    for number in range(5):
        station = Station(tmp_path / str(number))
        station.put("a.png", CAMERA_FRAME)
        time.sleep(station.settings["sources"][0]["settle_s"])
        started = time.monotonic()
        process = station.start()
        until(lambda station=station: list(station.results.glob("*/*.json")), "the first result")
        took.append(time.monotonic() - started)
        process.terminate()
        process.wait()
    assert statistics.median(took) <= 1.0, took


@pytest.mark.slow
@pytest.mark.training
@pytest.mark.parametrize(("variant", "limit_mb"), [("fp32", 140), ("int8", 105)])
def test_resident_memory_with_a_mobilenet_of_alpha_1(tmp_path: Path, variant: str, limit_mb: float) -> None:
    bundle = tmp_path / f"alpha1-{variant}.pipeline"
    mobilenet_bundle(bundle, 1.0, variant)
    with Mosquitto(tmp_path / "broker") as broker:
        mqtt = {"host": broker.host, "port": broker.port}
        station = Station(tmp_path / "s", mqtt=mqtt, bundle={"initial": str(bundle)})
        with station.running() as agent:
            for number in range(200):
                station.put(f"{number}.png", CAMERA_FRAME)
            station.wait_for(200)
            assert station.lines()[-1]["model"]["variant"] == variant
            assert memory_mb(agent.pid) <= limit_mb
            assert memory_mb(agent.pid, "VmHWM") <= limit_mb, "the peak, loading the model included"
