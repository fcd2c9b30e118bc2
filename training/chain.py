"""The steps in their order, and where each leaves its work in the folder `out`.

    out/prepared/                    the set (dataset.py)
    out/run/                         recipe.json, weights.json, checkpoint, model.keras, training.json (fit.py)
    out/onnx/<variant>.onnx          of `export` alone
    out/<name>-<version>.pipeline    the bundle, with report.html and metrics.json beside it

Invariant: each step reads what the one before left, so `all` is the steps one after another and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from agent.bundle.manifest import WeightsOrigin
from agent.errors import UsageError
from training import bundle as bundles
from training import dataset, weights
from training.bundle import Made
from training.checkpoint import CHECKPOINT
from training.dataset import Dataset
from training.fit import FACTS, MODEL, Tell, fit
from training.prepare import prepare
from training.recipe import Recipe

PREPARED, RUN, ONNX = "prepared", "run", "onnx"
_RECIPE, _WEIGHTS = "recipe.json", "weights.json"


def open_set(data: Path | None, out: Path, recipe: Recipe, tell: Tell, workers: int | None = None) -> Dataset:
    """The prepared set at `data`, or the one that `out` holds, or one made now from the raw frames at `data`."""
    if data is None or dataset.is_prepared(data):
        found = dataset.load(data or out / PREPARED)
    else:
        prepare(
            data, out / PREPARED, recipe, workers=workers, progress=lambda done, total: tell("frames", done, total, "")
        )
        found = dataset.load(out / PREPARED)
    bundles.check_classes(found, recipe)
    return found


def check_start(out: Path, recipe: Recipe, *, resume: bool) -> None:
    """What can be known to fail is said before the first frame is read. Raises UsageError."""
    weights.origin(recipe.model)
    weights.check(recipe.model)
    if not resume and (out / RUN / CHECKPOINT).exists():
        raise UsageError(f"{out / RUN}: holds a training; --resume goes on with it, or remove the folder")


def train(data: Dataset, out: Path, recipe: Recipe, tell: Tell, *, resume: bool = False) -> None:
    """Fit the recipe; leaves the model in `out`/run."""
    run = out / RUN
    before = weights.origin(recipe.model)
    fit(data.split("train"), data.split("val"), recipe, run, data_digest=data.index.digest, resume=resume, tell=tell)
    (run / _RECIPE).write_bytes(msgspec.json.format(msgspec.json.encode(recipe), indent=1))
    # What Keras downloads is there, and has a digest, only now.
    known = weights.origin(recipe.model) if recipe.model.weights == "imagenet" else before
    (run / _WEIGHTS).write_bytes(msgspec.json.encode(known))


@dataclass(frozen=True)
class Trained:
    """What `train` left."""

    model: Any
    recipe: Recipe
    weights: WeightsOrigin
    history: dict[str, Any]


def trained(out: Path) -> Trained:
    """Read `out`/run. Raises UsageError where `train` has not finished."""
    run = out / RUN
    try:
        recipe = msgspec.json.decode((run / _RECIPE).read_bytes(), type=Recipe)
        start = msgspec.json.decode((run / _WEIGHTS).read_bytes(), type=WeightsOrigin)
        history = msgspec.json.decode((run / FACTS).read_bytes())
        if not (run / MODEL).is_file():
            raise FileNotFoundError(run / MODEL)
    except OSError as error:
        missing = error.filename or error
        raise UsageError(f"{missing}: not there; finish weldwatch-train train --out {out} first") from None
    except msgspec.DecodeError as error:
        raise UsageError(f"{run}: {error}; train again") from None
    import keras

    return Trained(keras.models.load_model(run / MODEL), recipe, start, history)


def export(data: Dataset, out: Path) -> list[Path]:
    """Write the ONNX variants of the trained model to `out`/onnx."""
    done = trained(out)
    variants = bundles.export(done.model, data.split("val"), done.recipe)
    folder = out / ONNX
    folder.mkdir(parents=True, exist_ok=True)
    for name, one in variants.items():
        (folder / f"{name}.onnx").write_bytes(one.onnx)
    return [folder / f"{name}.onnx" for name in variants]


def bundle(data: Dataset, out: Path, tell: Tell, **called: str) -> Made:
    """Make the bundle of the trained model in `out`; `called` are another `name` or `version` than its recipe's."""
    done = trained(out)
    recipe = msgspec.structs.replace(done.recipe, **called)
    if done.history.get("data") != data.index.digest:
        raise UsageError(f"{out / RUN}: trained on another set than {data.directory}; train again, or name that set")
    return bundles.make_bundle(done.model, done.history, data, recipe, done.weights, out, tell=tell)
