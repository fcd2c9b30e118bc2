"""The network: a MobileNet backbone, average pooling, and two logits.

    input [N,128,128,3] 0…1 ─▶ 2 x^tone − 1 ─▶ backbone ─▶ map [N,h,w,c] ─▶ mean ─▶ embedding [N,c]
                            ─▶ dropout ─▶ logits [N,2]

With `mirrored` the map is the mean of the frame's map and of its mirror image's map, turned back.

Invariants: the scaling that the backbone was trained with is inside; batch norm never leaves its trained statistics;
logits are float32 whatever the precision inside. Logit 0 is no defect, logit 1 defect.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from agent.errors import UsageError
from training.recipe import Model as ModelRecipe

BACKBONE, EMBEDDING, LOGITS = "backbone", "embedding", "logits"
_CHANNELS = 3


def build(recipe: ModelRecipe, *, size: tuple[int, int] = (128, 128)) -> Any:
    """A compiled-free keras.Model for frames of `size` (width, height), with its starting weights loaded.

    Raises UsageError in one line where the weights cannot be had or do not fit.
    """
    import keras

    shape = (size[1], size[0], _CHANNELS)
    backbone = _backbone(recipe, shape)
    backbone.name = BACKBONE
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    inputs = keras.Input(shape, name="input")
    toned = inputs if recipe.tone == 1 else keras.ops.power(keras.ops.maximum(inputs, 1e-6), recipe.tone)
    scaled = keras.layers.Rescaling(2.0, offset=-1.0, name="scale")(toned)
    found = backbone(scaled, training=False)
    if recipe.mirrored:
        found = (found + _mirror(backbone(_mirror(scaled), training=False))) / 2
    embedding = keras.layers.GlobalAveragePooling2D(name=EMBEDDING, dtype="float32")(found)
    dropped = keras.layers.Dropout(recipe.dropout, name="dropout", dtype="float32")(embedding)
    logits = keras.layers.Dense(2, name=LOGITS, dtype="float32", kernel_initializer="zeros")(dropped)
    return keras.Model(inputs, logits, name="weldwatch")


def _mirror(maps: Any) -> Any:
    """Left and right exchanged, [N,h,w,c]; as a look-up, which every exporter knows."""
    import keras

    return keras.ops.take(maps, list(range(maps.shape[2] - 1, -1, -1)), axis=2)


def _backbone(recipe: ModelRecipe, shape: tuple[int, int, int]) -> Any:
    import keras

    makers = {
        "mobilenet_v1": keras.applications.MobileNet,
        "mobilenet_v2": keras.applications.MobileNetV2,
        "mobilenet_v3_small": keras.applications.MobileNetV3Small,
    }
    options: dict[str, Any] = {"input_shape": shape, "alpha": recipe.alpha, "include_top": False}
    if recipe.backbone == "mobilenet_v3_small":
        options["include_preprocessing"] = False
    weights = None if recipe.weights == "random" else recipe.weights
    if weights not in (None, "imagenet") and not Path(weights).is_file():
        raise UsageError(f"weights {weights}: no such file; give a Keras .h5 file without top, 'imagenet' or 'random'")
    wanted = f"{recipe.backbone} alpha {recipe.alpha:g}"
    try:
        with warnings.catch_warnings():
            # Keras warns when it leaves layers at random: that is no start, but a file that does not fit.
            warnings.simplefilter("error", UserWarning)
            return makers[recipe.backbone](weights=weights, **options)
    except (ValueError, UserWarning) as error:
        if weights in (None, "imagenet"):
            reason = " ".join(str(error).split())[:200]
            raise UsageError(f"{wanted} cannot be built with weights {weights}: {reason}") from None
        raise UsageError(f"weights {weights}: do not fit {wanted} without top; check backbone and alpha") from None
    except Exception as error:
        # Keras's download raises a bare Exception with the address; anything else is a bug and goes on as it is.
        if type(error) is not Exception and not isinstance(error, OSError):
            raise
        if weights not in (None, "imagenet"):
            raise UsageError(f"weights {weights}: not a Keras .h5 file of weights") from None
        raise UsageError(
            f"ImageNet weights of {wanted} cannot be reached; give a Keras .h5 file without top with --weights PATH, "
            "or --weights random (for trying only: it learns little)"
        ) from None
