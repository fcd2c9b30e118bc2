"""Where a model can run: people's names for onnxruntime's execution providers, and what each of them is told.

    <state>/engines/<ONNX sha256, 16 digits>-<device>-<onnxruntime's version>/     engines that a device has built

Invariants
- What is on offer is asked of the installed onnxruntime; which of it is taken, the self-test measures.
- The processor is always the last resort, so that a driver that is missing or broken stops no line.
- An engine belongs to one model, one device and one version; those that were used last are kept.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

CPU = "cpu"
#: In the order in which ``auto`` tries them.
_PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    CPU: "CPUExecutionProvider",
}
#: Build an engine for the machine, which takes seconds to minutes, and can keep it.
BUILDERS = frozenset({"tensorrt", "openvino"})
_ONE_FRAME = "input:1x128x128x3"
_KEY = 16  #: digits of the digest that name a folder of engines
KEEP = 16  #: folders of engines


@dataclass(frozen=True)
class Device:
    """A place to run a model, and where what it builds is kept (None: nowhere)."""

    name: str = CPU
    engines: Path | None = None

    @property
    def provider(self) -> str:
        """onnxruntime's name for it."""
        return _PROVIDERS[self.name]

    def folder(self, sha256: str) -> Path | None:
        """Where the engines of the ONNX file with this digest are kept; None where none are."""
        if self.engines is None or self.name not in BUILDERS:
            return None
        return self.engines / f"{sha256[:_KEY]}-{self.name}-{version()}"

    def providers(self, sha256: str) -> list[tuple[str, dict[str, str]]]:
        """What an ``InferenceSession`` is given: the provider with its options, then what takes what it cannot do."""
        kept = self.folder(sha256)
        options: dict[str, str] = {}
        behind: list[tuple[str, dict[str, str]]] = []
        if self.name == "tensorrt":
            # One frame at a time is all that a station asks: with the shape fixed the engine is built once, at loading.
            options = {f"trt_profile_{which}_shapes": _ONE_FRAME for which in ("min", "opt", "max")}
            if kept is not None:
                options |= {
                    "trt_engine_cache_enable": "True",
                    "trt_engine_cache_path": str(kept),
                    "trt_timing_cache_enable": "True",
                    "trt_timing_cache_path": str(kept),
                }
            behind = [(_PROVIDERS["cuda"], {})]
        elif self.name == "openvino":
            # One thread, as on the processor: a station has other work beside the model.
            options = {"device_type": "CPU", "num_of_threads": "1", "num_streams": "1"}
            if kept is not None:
                options["cache_dir"] = str(kept)
        if self.name != CPU:
            behind.append((_PROVIDERS[CPU], {}))
        return [(self.provider, options), *behind]


ON_CPU = Device()


def version() -> str:
    """The installed onnxruntime's version; engines of another one are not taken."""
    import onnxruntime

    return str(onnxruntime.__version__)


def offered() -> list[str]:
    """The devices that the installed onnxruntime knows, the most wanted first. If they work, the self-test shows."""
    import onnxruntime

    there = set(onnxruntime.get_available_providers())
    return [name for name, provider in _PROVIDERS.items() if provider in there]


def to_try(wanted: str, engines: Path | None = None) -> list[Device]:
    """The devices to measure for ``bundle.device``: all on offer for ``auto``, else that one, and the processor."""
    names = offered() if wanted == "auto" else [wanted] if wanted == CPU else [wanted, CPU]
    return [Device(name, engines) for name in names]


def tidy(engines: Path) -> None:
    """Keep the engines that were used last; those of other versions and the rest go."""
    mine = f"-{version()}"
    folders = sorted(engines.iterdir(), key=lambda folder: -folder.stat().st_mtime) if engines.is_dir() else []
    kept = [folder for folder in folders if folder.name.endswith(mine)][:KEEP]
    for folder in folders:
        if folder not in kept:
            shutil.rmtree(folder, ignore_errors=True)
