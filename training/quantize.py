"""int8: static, per channel, calibrated on validation frames.

Invariants: weights have 7 of their 8 bits (`reduce_range`), because on x86 without VNNI two 8-bit products overflow
their 16-bit sum, and a bundle must give the same numbers on every station; the head (pooling, logits, softmax) stays in
float, since it costs nothing and its rounding would move probabilities.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agent.bundle.manifest import INPUT_NAME
from agent.bundle.preprocess import to_input


def to_int8(model: bytes, gray: NDArray[np.uint8]) -> bytes:
    """The int8 form of an fp32 graph; `gray` uint8 [n, 128, 128] are the frames that set the ranges."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
        def __init__(self) -> None:
            self._frames: Iterator[NDArray[np.uint8]] = iter(gray)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            frame = next(self._frames, None)
            return None if frame is None else {INPUT_NAME: to_input(frame)}

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        ready, target = Path(folder) / "ready.onnx", Path(folder) / "int8.onnx"
        level = logging.root.level
        logging.root.setLevel(logging.ERROR)  # the quantiser logs advice on the root logger that is followed here
        try:
            ready.write_bytes(model)
            quantize_static(
                str(ready), str(target), Reader(), quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                op_types_to_quantize=["Conv", "Add", "Clip", "Relu"],
            )  # fmt: skip
        finally:
            logging.root.setLevel(level)
        proto = onnx.load(str(target))
    wanted = onnx.load_from_string(model)
    proto.ir_version = wanted.ir_version
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    proto.producer_name, proto.doc_string = "weldwatch", ""
    data: bytes = proto.SerializeToString()
    return data
