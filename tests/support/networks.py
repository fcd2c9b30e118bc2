"""Bundles around a real MobileNet with random weights: for what a network costs, not for what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from agent.bundle.manifest import Golden, Manifest, Variant
from tests.support.bundles import brightness_bundle, png


def mobilenet_bundle(path: Path, alpha: float, variant: str) -> Manifest:
    """A bundle with one ``variant`` ("fp32" or "int8") of MobileNet V1."""
    import onnxruntime

    from training.export import to_onnx
    from training.network import build
    from training.quantize import to_int8
    from training.recipe import Model

    chance = np.random.default_rng(3)
    frames = chance.integers(0, 256, (16, 128, 128), dtype=np.uint8)
    graph = to_onnx(build(Model(alpha=alpha, weights="random")), temperature=1.0)
    if variant == "int8":
        graph = to_int8(graph, frames)
    array = np.repeat(frames[:1, :, :, np.newaxis], 3, axis=3).astype(np.float32) / np.float32(255)
    expected = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]).run(None, {"input": array})[0][0]
    return brightness_bundle(
        path,
        variants={variant: Variant(file=f"model/{variant}.onnx", tolerance=0.05)},
        golden=[Golden(image="golden/noise.png", outputs={variant: [float(p) for p in expected]})],
        entries={f"model/{variant}.onnx": graph, "golden/noise.png": png(frames[0])},
    )
