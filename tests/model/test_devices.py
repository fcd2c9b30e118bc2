"""Where a model runs: chosen by the self-test among what the installed onnxruntime offers, never by a guess."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from agent.errors import BundleError
from agent.model import devices
from agent.model.devices import Device
from agent.model.loading import Choice, Trust, load
from tests.support.bundles import brightness_bundle

CPU = "CPUExecutionProvider"
JETSON = ["TensorrtExecutionProvider", "CUDAExecutionProvider", CPU]


class Runtime:
    """onnxruntime with other devices: what it was asked for is noted, the processor does the work.

    ``broken`` names providers that are offered and do not start, as with a driver that is missing.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, offered: list[str], broken: tuple[str, ...] = ()) -> None:
        self.asked: list[list[tuple[str, dict[str, str]]]] = []
        self.ran: list[str] = []
        real, runtime = onnxruntime.InferenceSession, self

        class Session:
            def __init__(self, path: str, options: Any, providers: list[tuple[str, dict[str, str]]]) -> None:
                runtime.asked.append(providers)
                self._names = [name for name, _ in providers if name not in broken]
                self._real = real(path, options, providers=[CPU])

            def get_providers(self) -> list[str]:
                return self._names

            def run(self, *arguments: Any) -> Any:
                runtime.ran.append(self._names[0])
                return self._real.run(*arguments)

            def __getattr__(self, name: str) -> Any:
                return getattr(self._real, name)

        monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    brightness_bundle(tmp_path / "b.pipeline")
    return tmp_path / "b.pipeline"


def test_auto_measures_all_that_is_offered(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime(monkeypatch, JETSON)
    loaded = load(bundle, Trust(engines=tmp_path / "engines"))
    assert [providers[0][0] for providers in runtime.asked] == JETSON
    assert set(runtime.ran) == set(JETSON), "each ran the golden images"
    assert loaded.model.device in ("tensorrt", "cuda", "cpu")
    assert loaded.refusals == ()


def test_what_is_offered_and_does_not_start_is_refused_and_the_processor_judges(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Runtime(monkeypatch, JETSON, broken=("TensorrtExecutionProvider", "CUDAExecutionProvider"))
    loaded = load(bundle)
    assert loaded.model.device == "cpu"
    assert [name in refusal for name, refusal in zip(("tensorrt", "cuda"), loaded.refusals, strict=True)] == [True] * 2


def test_a_device_that_is_asked_for_and_not_offered_is_said(bundle: Path) -> None:
    loaded = load(bundle, Trust(device="cuda"))
    assert loaded.model.device == "cpu"
    (refusal,) = loaded.refusals
    assert refusal.startswith("bundle.device: onnxruntime")
    assert refusal.endswith("does not offer cuda")


@pytest.mark.parametrize(("name", "provider"), [("cpu", CPU), ("cuda", JETSON[1])])
def test_a_named_device_is_not_measured_against_others(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, name: str, provider: str
) -> None:
    runtime = Runtime(monkeypatch, JETSON)
    assert load(bundle, Trust(device=name)).model.device == name
    assert [providers[0][0] for providers in runtime.asked] == [provider]


def test_engines_are_kept_by_model_device_and_version(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Runtime(monkeypatch, JETSON)
    engines = tmp_path / "engines"
    model = load(bundle, Trust(engines=engines), Choice("fp32", "tensorrt")).model
    (folder,) = engines.iterdir()
    assert folder.name == f"{model.facts.sha256[:16]}-tensorrt-{onnxruntime.__version__}"
    assert folder.stat().st_mode & 0o077 == 0, "an engine is code: nobody else may write one"
    (name, options), *behind = runtime.asked[0]
    assert (name, options["trt_engine_cache_enable"], options["trt_engine_cache_path"]) == (
        JETSON[0],
        "True",
        str(folder),
    )
    assert options["trt_profile_opt_shapes"] == "input:1x128x128x3"
    assert [one for one, _ in behind] == JETSON[1:], "what TensorRT cannot do goes to CUDA, then to the processor"


def test_old_engines_go(tmp_path: Path) -> None:
    import os

    mine = f"-tensorrt-{onnxruntime.__version__}"
    for number in range(devices.KEEP + 2):
        (tmp_path / f"{number:016x}{mine}").mkdir()
        os.utime(tmp_path / f"{number:016x}{mine}", (number, number))
    (tmp_path / "0000-tensorrt-1.0.0").mkdir()
    devices.tidy(tmp_path)
    assert sorted(one.name for one in tmp_path.iterdir()) == [f"{n:016x}{mine}" for n in range(2, devices.KEEP + 2)]


def test_the_first_frame_of_a_device_is_no_frames_latency(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime(monkeypatch, [CPU])
    load(bundle)
    assert len(runtime.ran) == 4, "three golden images, and the first once before"


def test_openvino_has_one_thread_as_the_processor_has(tmp_path: Path) -> None:
    (_, options), *_ = Device("openvino", tmp_path).providers("0" * 64)
    assert (options["num_of_threads"], Path(options["cache_dir"]).parent) == ("1", tmp_path)


def test_what_a_rehearsal_chose_is_all_that_is_loaded(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime(monkeypatch, JETSON)
    loaded = load(bundle, Trust(), Choice("fp32", "cuda", ("tensorrt was slower",)))
    assert (loaded.model.device, len(runtime.asked), loaded.refusals) == ("cuda", 1, ("tensorrt was slower",))
    with pytest.raises(BundleError, match="tiny"):
        load(bundle, Trust(), Choice("tiny", "cpu"))
