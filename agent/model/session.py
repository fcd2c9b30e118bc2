"""A bundle at work: the one door to onnxruntime.

Invariants
- The ONNX bytes come from a verified archive and are checked against their digest when read.
- ``self_test`` runs the golden images on this machine; a model that fails it never judges a frame.
- One thread, no spinning: at 20 images a second a spinning pool would burn half a core for nothing.
- A session runs on the device that it was asked for, or is refused: onnxruntime's own silent falling back is undone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from agent.bundle.archive import Archive
from agent.bundle.manifest import INPUT_NAME, Manifest
from agent.bundle.postprocess import decide
from agent.bundle.preprocess import to_gray, to_input
from agent.errors import BundleError, ImageError
from agent.image import Picture, decode
from agent.model.devices import ON_CPU, Device
from agent.ports import Decision, Judgement
from agent.result import ModelFacts

if TYPE_CHECKING:
    import onnxruntime


class OnnxModel:
    """One variant of one bundle, loaded. Implements ``ports.Model``; ``judge`` belongs to one thread."""

    def __init__(self, archive: Archive, variant: str | None = None, device: Device = ON_CPU) -> None:
        """Load ``variant`` (default: the first that the manifest lists). ``BundleError`` when it does not fit."""
        self.manifest: Manifest = archive.manifest
        self.variant = variant or next(iter(self.manifest.variants))
        if self.variant not in self.manifest.variants:
            known = ", ".join(self.manifest.variants)
            raise BundleError(f"{archive.path}: no variant {self.variant!r}; it has {known}")
        entry = self.manifest.variants[self.variant].file
        self._where = f"{archive.path}: {entry}"
        self.device = device.name
        self._session = _session(archive, entry, self._where, device)
        self._output = self._check_signature()
        self.decision: Decision = self.manifest.decision_of(self.variant)
        self.facts = ModelFacts(
            self.manifest.name, self.manifest.version, self.variant, self.manifest.files[entry].sha256
        )

    def judge(self, picture: Picture) -> Judgement:
        """Preprocess and run the model on one picture. ``ImageError`` (``inference_failed``) if the runtime fails."""
        try:
            started = time.perf_counter()
            array = to_input(to_gray(picture, self.manifest.preprocessing))
            prepared = time.perf_counter()
            probability = self.probabilities(array)[0].tolist()
        except Exception as error:  # noqa: BLE001  # onnxruntime's errors share no base but Exception
            raise ImageError("inference_failed", " ".join(str(error).split())[:300] or type(error).__name__) from None
        done = time.perf_counter()
        return Judgement(probability, (prepared - started) * 1e3, (done - prepared) * 1e3)

    def probabilities(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """First output for ``array`` (float32 [n, 128, 128, 3], 0…1): float32 [n, classes]."""
        outputs: Sequence[NDArray[np.float32]] = self._session.run([self._output], {INPUT_NAME: array})
        return outputs[0]

    def outputs(self, array: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """All outputs by name, the probabilities first."""
        names = [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, {INPUT_NAME: array}), strict=True))

    def _check_signature(self) -> str:
        """The input and first output must be what the contract says. Returns the first output's name."""
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if [i.name for i in inputs] != [INPUT_NAME] or inputs[0].shape[1:] != [128, 128, 3]:
            found = ", ".join(f"{i.name} {i.shape}" for i in inputs)
            raise BundleError(f"{self._where}: input is {found}; must be one named {INPUT_NAME!r}, [N, 128, 128, 3]")
        if inputs[0].type != "tensor(float)" or outputs[0].type != "tensor(float)":
            raise BundleError(f"{self._where}: input and first output must be float32")
        classes = outputs[0].shape[-1]
        if len(outputs[0].shape) != 2 or classes != len(self.manifest.labels):
            listed = len(self.manifest.labels)
            raise BundleError(f"{self._where}: first output has shape {outputs[0].shape}; {listed} labels are listed")
        name: str = outputs[0].name
        return name


#: An external file's name, as protobuf writes it into an ONNX graph (StringStringEntryProto, key "location").
_ELSEWHERE = b"\x0a\x08location\x12"


def _session(archive: Archive, entry: str, where: str, device: Device) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors only: they are raised as well, in one line
    sha256 = archive.manifest.files[entry].sha256
    if device.provider not in onnxruntime.get_available_providers():
        raise BundleError(f"bundle.device: onnxruntime {onnxruntime.__version__} here does not offer {device.name}")
    graph = archive.read(entry)
    if _ELSEWHERE in graph:
        raise BundleError(f"{where}: keeps data in other files; a bundle's graph must hold all its own")
    # A session made from bytes keeps them for life. The very bytes that were checked go through a file in memory that
    # nobody else can reach, and are gone once it is loaded.
    handle = os.memfd_create("weldwatch-model", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(handle), "wb") as file:
            file.write(graph)
        if (folder := device.folder(sha256)) is not None:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.utime(folder)
        providers = device.providers(sha256)
        session = onnxruntime.InferenceSession(f"/proc/self/fd/{handle}", options, providers=providers)
    except BundleError:
        raise
    except Exception as error:  # noqa: BLE001  # onnxruntime's errors share no base but Exception
        reason = " ".join(str(error).split())[:300]
        raise BundleError(f"{where}: onnxruntime {onnxruntime.__version__} cannot load it: {reason}") from None
    finally:
        os.close(handle)
    if session.get_providers()[0] != device.provider:
        raise BundleError(f"{where}: {device.name} does not work here, onnxruntime says why on stderr")
    session.disable_fallback()
    return session


def self_test(archive: Archive, model: OnnxModel) -> tuple[float, float]:
    """Run the golden images through ``model``: the largest deviation (absolute) and the median latency in ms.

    The first image is run once more before, unmeasured: what a device does at its first frame is no frame's latency.
    ``BundleError`` when an output is further off than the variant's tolerance, or an evaluation would change.
    """
    tolerance = model.manifest.variants[model.variant].tolerance
    worst = 0.0
    times: list[float] = []
    for golden in model.manifest.golden:
        expected = golden.outputs.get(model.variant)
        if expected is None:
            continue
        try:
            picture = decode(archive.read(golden.image))
            if not times:
                model.judge(picture)
            judged = model.judge(picture)
        except ImageError as error:
            raise BundleError(f"{archive.path}: self-test failed: {golden.image}: {error}") from None
        times.append(judged.preprocess_ms + judged.inference_ms)
        deviation = float(np.max(np.abs(np.subtract(judged.probability, expected))))
        worst = max(worst, deviation) if np.isfinite(deviation) else float("inf")
        same = decide(judged.probability, model.decision)[1] == decide(expected, model.decision)[1]
        if worst > tolerance or not same:
            raise BundleError(
                f"{archive.path}: self-test failed on this machine: {golden.image} gives {judged.probability}, "
                f"expected {expected} (variant {model.variant}, {model.device}, tolerance {tolerance})"
            )
    if not times:
        raise BundleError(f"{archive.path}: no golden image for variant {model.variant}; it cannot be tested here")
    return worst, float(np.median(times))
