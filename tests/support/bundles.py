"""Small real bundles for tests: a graph whose defect probability is the picture's mean gray level (0…1)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image

from agent.bundle import archive, scripts
from agent.bundle.manifest import DecisionRule, Golden, Manifest, TrainingFacts, Variant, WeightsOrigin
from agent.bundle.preprocess import Preprocessing

LABELS = ["no defect", "defect"]


def brightness_graph(size: int = 128, classes: int = 2, input_name: str = "input") -> bytes:
    """ONNX bytes: probabilities [N, classes], the last the mean of the input, the first one minus it, others zero."""
    nodes = [
        helper.make_node("ReduceMean", [input_name], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("ReduceMean", ["mean"], ["defect"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["one", "defect"], ["good"]),
        helper.make_node("Sub", ["defect", "defect"], ["zero"]),
        helper.make_node("Concat", ["good", *["zero"] * (classes - 2), "defect"], ["probability"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, ["N", size, size, 3])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N", classes])],
        [helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def failing_graph(limit: float = 0.95) -> bytes:
    """As ``brightness_graph``, but the runtime fails on pictures whose mean gray level is above ``limit``.

    The mean becomes an index into a table that has no row for it.
    """
    model = onnx.load_from_string(brightness_graph())
    nodes, graph = list(model.graph.node), model.graph
    del graph.node[:]
    ahead = [
        helper.make_node("Greater", ["defect", "limit"], ["above"]),
        helper.make_node("Cast", ["above"], ["row"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "row"], ["nought"], axis=0),
        helper.make_node("Add", ["defect", "nought"], ["checked"]),
    ]
    for node in nodes[2:]:
        node.input[:] = ["checked" if name == "defect" else name for name in node.input]
    graph.node.extend([*nodes[:2], *ahead, *nodes[2:]])
    graph.initializer.append(helper.make_tensor("limit", TensorProto.FLOAT, [1], [limit]))
    graph.initializer.append(helper.make_tensor("table", TensorProto.FLOAT, [1], [0.0]))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def png(gray: np.ndarray) -> bytes:
    """Encode uint8 gray levels."""
    buffer = io.BytesIO()
    Image.fromarray(gray).save(buffer, "PNG")
    return buffer.getvalue()


def flat_png(level: int, size: tuple[int, int] = (160, 120)) -> bytes:
    """A picture of one gray level: its defect probability is level / 255."""
    return png(np.full(size[::-1], level, np.uint8))


def brightness_bundle(path: Path, *, threshold: float = 0.5, review: tuple[float, float] | None = None,
                      entries: dict[str, bytes] | None = None, **changes: Any) -> Manifest:  # fmt: skip
    """Write a bundle that judges by brightness. ``changes`` replace fields of the manifest."""
    golden = []
    contents = {"model/fp32.onnx": brightness_graph()}
    for number, level in enumerate((20, 130, 240)):
        name = f"golden/{number}.png"
        contents[name] = flat_png(level)
        defect = level / 255
        golden.append(Golden(image=name, outputs={"fp32": [1 - defect, defect]}))
    manifest = Manifest(
        name="brightness",
        version="1.0.0",
        created_at="2026-01-01T00:00:00.000Z",
        labels=LABELS,
        variants={"fp32": Variant(file="model/fp32.onnx")},
        preprocessing=Preprocessing(),
        decision=DecisionRule(good=[0], threshold=threshold, review=review),
        golden=golden,
        training=TrainingFacts(
            synthetic=True,
            data={},
            split="recording",
            recipe={},
            metrics={},
            weights=WeightsOrigin(name="none", origin="written by hand for a test", licence="Apache-2.0"),
        ),
        files={},
    )
    manifest = msgspec.structs.replace(manifest, **changes)
    contents.update(scripts.scripts(manifest))
    contents.update(entries or {})
    return archive.write(path, manifest, contents)
