"""From Keras to the bundle's ONNX graph.

    input [N,128,128,3] 0…1 ─▶ probability [N,2] ── softmax of (logits + shift of the defect's) / temperature
                            ─▶ activation_map [N,h,w] ── what each place adds to the margin (Zhou et al. 2016)
                            ─▶ embedding [N,c]

Invariants: opset 17, IR version 10 at most, the batch dimension is called N; temperature and shift are inside, so
everybody who runs the graph gets the calibrated number; the mean of activation_map plus the graph's bias is the
calibrated margin (defect minus no defect).
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

from agent.bundle.manifest import INPUT_NAME
from training.network import EMBEDDING, LOGITS

OPSET, IR_VERSION = 17, 8
OUTPUTS = ("probability", "activation_map", "embedding")


def to_onnx(model: Any, temperature: float, shift: float = 0.0) -> bytes:
    """The ONNX file of a fitted keras.Model with two logits; `temperature` > 0 and the margin's `shift` folded in."""
    import tensorflow as tf

    shape = (None, *model.input_shape[1:])
    function = tf.function(
        _outputs(model, temperature, shift), input_signature=[tf.TensorSpec(shape, tf.float32, INPUT_NAME)]
    )
    with warnings.catch_warnings():
        # tf2onnx 1.17 calls what numpy 2 and TensorFlow have renamed; its result is checked by the parity gate.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        import tf2onnx

        proto, _ = tf2onnx.convert.from_function(
            function, input_signature=function.input_signature, opset=OPSET, large_model=False
        )
    return _tidy(_simplify(proto.SerializeToString()))


def _outputs(model: Any, temperature: float, shift: float) -> Any:
    import keras
    import tensorflow as tf

    pooling = model.get_layer(EMBEDDING)
    inner = keras.Model(model.input, [pooling.input, pooling.output])
    kernel, bias = model.get_layer(LOGITS).get_weights()
    bias[1] += shift  # where it is already: an addition of its own would be quantised with the rest
    toward_defect = ((kernel[:, 1] - kernel[:, 0]) / temperature).astype("float32")

    def outputs(frames: Any) -> dict[str, Any]:
        places, embedding = inner(frames, training=False)
        logits = tf.linalg.matmul(tf.cast(embedding, tf.float32), kernel) + tf.constant(bias, tf.float32)
        shown = tf.reduce_sum(tf.cast(places, tf.float32) * tf.constant(toward_defect), axis=-1)
        return dict(zip(OUTPUTS, (tf.nn.softmax(logits / temperature), shown, embedding), strict=True))

    return outputs


def _simplify(model: bytes) -> bytes:
    """Fold constants and drop what does nothing (91 to 61 nodes), by onnxruntime's machine-independent rules."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(folder) / "model.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return Path(options.optimized_model_filepath).read_bytes()


def _tidy(model: bytes) -> bytes:
    """Outputs in the contract's order, the batch dimension named, only the opset that is used."""
    import onnx

    proto = onnx.load_from_string(model)
    outputs = {output.name: output for output in proto.graph.output}
    del proto.graph.output[:]
    proto.graph.output.extend(outputs[name] for name in OUTPUTS)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    used = {node.domain for node in proto.graph.node} | {""}
    opsets = [one for one in proto.opset_import if one.domain in used]
    del proto.opset_import[:]
    proto.opset_import.extend(opsets)
    proto.ir_version = IR_VERSION
    proto.producer_name, proto.doc_string = "weldwatch", ""
    onnx.checker.check_model(proto, full_check=True)
    data: bytes = proto.SerializeToString()
    return data
