"""The recipe: everything that decides what a training gives, as frozen, strict, typed data.

Invariants: the same recipe, data and seed give the same model within seed noise; unknown keys are errors; a recipe that
was read is written whole into the bundle's manifest, defaults included.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from agent.bundle.manifest import Name, Version
from agent.bundle.preprocess import Preprocessing
from agent.errors import UsageError
from agent.strict_yaml import convert, load_yaml

Share = Annotated[float, Meta(ge=0, lt=1)]
Count = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]

BUILT_IN = Path(__file__).parent / "recipes"
DEFAULT = "aluminium"


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every section refuses what it does not know."""


class Data(_Section, frozen=True, kw_only=True):
    """Which frames. Numbers are frames of each of the two classes; null takes all there are, unbalanced."""

    train: Count | None = 1000
    val: Count | None = 300
    test: Count | None = 300
    split: Literal["recording", "given", "frame"] = "recording"
    near_duplicate: Annotated[float, Meta(gt=0.9, le=1)] = 0.997  #: correlation of thumbnails; 1 turns it off
    preprocessing: Preprocessing = Preprocessing()


class Model(_Section, frozen=True, kw_only=True):
    """The network and what it starts from."""

    backbone: Literal["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small"] = "mobilenet_v1"
    alpha: Annotated[float, Meta(gt=0, le=2)] = 0.5
    weights: str = "imagenet"  #: "imagenet" (Keras finds or downloads them), "random", or a file's path
    weights_origin: str | None = None  #: in words, for a file that is not known by its digest
    weights_licence: str | None = None
    tone: Annotated[float, Meta(gt=0, le=2)] = 1.0  #: fixed exponent on gray levels; below 1 lifts the dark frames
    mirrored: bool = False  #: look at the frame and its mirror image; twice the work of one
    dropout: Share = 0.2


class Augment(_Section, frozen=True, kw_only=True):
    """What a weld camera really shows, drawn anew for every frame and epoch; 0 or false turns one off."""

    exposure: Annotated[float, Meta(ge=0, le=1)] = 0.25  #: gain e^±x
    gamma: Annotated[float, Meta(ge=0, le=1)] = 0.25  #: exponent e^±x
    halo: Annotated[float, Meta(ge=0, le=1)] = 0.15  #: glow added around a random spot, up to this part of white
    blur: Annotated[float, Meta(ge=0, le=1)] = 0.5  #: blend with a 3×3 binomial blur, up to this share
    noise: Annotated[float, Meta(ge=0, le=0.2)] = 0.02  #: standard deviation, up to this part of white
    shift: Annotated[float, Meta(ge=0, le=0.3)] = 0.06  #: of the frame's side
    turn: Annotated[float, Meta(ge=0, le=45)] = 4.0  #: degrees
    zoom: Annotated[float, Meta(ge=0, le=0.5)] = 0.08
    mirror: bool = True


class Train(_Section, frozen=True, kw_only=True):
    """The head on cached features first, then everything with batch norm frozen."""

    head_copies: Annotated[int, Meta(ge=0)] = 1  #: augmented copies of each frame beside it, for the head's features
    head_strength: Positive = 1.0  #: inverse of the head's L2 penalty (scikit-learn's C, on features of variance 1)
    batch: Annotated[int, Meta(ge=2, le=4096)] = 32
    epochs: Annotated[int, Meta(ge=0)] = 16
    rate: Positive = 3e-4
    weight_decay: Annotated[float, Meta(ge=0)] = 1e-4
    label_smoothing: Annotated[float, Meta(ge=0, le=0.3)] = 0.02
    patience: Count = 5  #: epochs without a better validation loss before it stops
    class_weights: bool = True  #: both classes weigh the same, however many frames they have
    recording_weights: bool = False  #: all recordings of a class weigh the same: few recordings of unequal length
    augment: Augment = Augment()
    mixed_precision: bool = False  #: 16-bit floats where the hardware multiplies them faster


class Choice(_Section, frozen=True, kw_only=True):
    """How the operating point is chosen on validation recordings."""

    escape_rate: Share = 0.02  #: at most: share of defective frames that pass
    overkill_rate: Share = 0.01  #: share of good frames that may be rejected without asking: it buys fewer escapes
    review_share: Share = 0.02  #: at most this share of frames goes to a person (NotDecidable); 0: none
    confidence: Annotated[float, Meta(ge=0.5, lt=1)] = 0.95
    draws: Annotated[int, Meta(ge=100, le=100_000)] = 1000  #: of the bootstrap over recordings


class Export(_Section, frozen=True, kw_only=True):
    """Which files go into the bundle, in the order of the station's preference."""

    variants: Annotated[list[Literal["fp32", "int8"]], Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: ["fp32", "int8"]
    )
    golden: Annotated[int, Meta(ge=2, le=64)] = 8
    calibration_frames: Annotated[int, Meta(ge=8)] = 200


class Recipe(_Section, frozen=True, kw_only=True):
    """From frames to bundle."""

    name: Name
    version: Version = "1.0.0"
    notice: str | None = None  #: shown wherever the bundle is shown
    seed: Annotated[int, Meta(ge=0)] = 0
    classes: Annotated[list[str], Meta(min_length=2)]  #: names of the original classes, by number
    good: Annotated[list[int], Meta(min_length=1)] = msgspec.field(default_factory=lambda: [0])
    labels: Annotated[list[str], Meta(min_length=2, max_length=2)] = msgspec.field(
        default_factory=lambda: ["no defect", "defect"]
    )
    data: Data = Data()
    model: Model = Model()
    train: Train = Train()
    decision: Choice = Choice()
    export: Export = Export()


def load_recipe(wanted: str | Path) -> Recipe:
    """Read a recipe: the path of a YAML file, or the name of one that comes with weldwatch (`aluminium`, …).

    Raises UsageError in one line: file, key, what was found, what is allowed.
    """
    path = Path(wanted)
    if not path.suffix and not path.exists():
        path = BUILT_IN / f"{wanted}.yaml"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        known = ", ".join(sorted(one.stem for one in BUILT_IN.glob("*.yaml")))
        raise UsageError(f"recipe {wanted}: {error.strerror}; give a YAML file, or one of: {known}") from None
    except UnicodeDecodeError:
        raise UsageError(f"recipe {path}: not UTF-8 text; save it as plain UTF-8") from None
    recipe = convert(load_yaml(text, str(path)), Recipe, str(path))
    if not all(0 <= index < len(recipe.classes) for index in recipe.good) or len(set(recipe.good)) == len(
        recipe.classes
    ):
        raise UsageError(f"{path}: good: {recipe.good} does not fit {len(recipe.classes)} classes")
    return recipe


def as_data(recipe: Recipe) -> dict[str, Any]:
    """The whole recipe as plain data, for the manifest. A path of weights is cut to its file's name."""
    plain: dict[str, Any] = msgspec.to_builtins(recipe)
    plain["model"]["weights"] = Path(recipe.model.weights).name
    return plain


def digest(recipe: Recipe) -> str:
    """SHA-256 of all that decides the trained weights; what only decides afterwards (thresholds, export) is left
    out.
    """
    plain = as_data(recipe)
    chosen = {key: plain[key] for key in ("seed", "data", "model", "train")}
    for words in ("weights_origin", "weights_licence"):
        del chosen["model"][words]
    return hashlib.sha256(msgspec.json.encode(chosen)).hexdigest()
