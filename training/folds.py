"""Grouped cross-validation for small sets: every recording is tested once, by a model that never saw it.

Invariants
- Folds are by recording, with classes spread evenly as far as recordings allow; a recording never lies on two sides.
- With several recipes the choice is made inside the training recordings of each fold, by an inner cross-validation, and
  the fold that is reported takes no part in it (nested). The recipes' own rows are there to compare; only the
  nested row may be quoted as "the best recipe".
- The probe (frozen features of the frame as it is, logistic regression) runs on the same folds: what fine-tuning,
  augmentation and the rest are worth is its distance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.errors import UsageError
from training import statistics
from training.dataset import Frames
from training.fit import Tell, embed, fit, head, margins, quiet
from training.intervals import FEW
from training.network import build
from training.recipe import Recipe
from training.statistics import F64

NESTED, PROBE = "best recipe, chosen inside the folds", "probe"
_INNER = 3
_PROBE_STRENGTH = 1000.0

Split = tuple[NDArray[np.intp], NDArray[np.intp]]
#: From (train, test) positions and a seed to margins of the test frames.
Method = Callable[[NDArray[np.intp], NDArray[np.intp], int], F64]


@dataclass(frozen=True)
class Validated:
    """The figures for report and JSON, and the margins behind them: name to float [seeds, n]."""

    figures: dict[str, Any]
    margins: Mapping[str, F64]


def cross_validate(
    frames: Frames, recipes: Mapping[str, Recipe], *, folds: int, seeds: int, tell: Tell = quiet
) -> Validated:
    """Measure each of `recipes` (by name), the probe of each backbone, and the nested choice, on the same folds.

    Raises UsageError where a class has fewer recordings than there are folds.
    """
    _check(frames, folds)
    methods = {name: _method(frames, recipe) for name, recipe in recipes.items()}
    probes = {}
    for recipe in recipes.values():
        if probe_name(recipe) not in probes:
            probes[probe_name(recipe)] = _method(frames, _probe(recipe))
    everything = methods | probes
    found = {name: np.zeros((seeds, len(frames))) for name in everything}
    nested, chosen = np.zeros((seeds, len(frames))), dict.fromkeys(methods, 0)
    total, done = seeds * folds, 0
    for seed in range(seeds):
        for train, test in _splits(frames, np.arange(len(frames)), folds, seed):
            for name, method in everything.items():
                found[name][seed, test] = method(train, test, seed)
            if len(methods) > 1:
                best = _choose(frames, methods, train, seed)
                chosen[best] += 1
                nested[seed, test] = found[best][seed, test]
            done += 1
            tell("folds", done, total, "")
    if len(methods) > 1:
        found = {NESTED: nested} | found
    figures = {name: _figure(frames, values) for name, values in found.items()}
    notes = [
        "AUC of all out-of-fold frames together, mean of the seeds; the interval is by bootstrap over recordings. "
        "The probe is logistic regression on the backbone's frozen features."
    ]
    first = next(iter(found))
    against = max(probes, key=lambda name: figures[name]["auc"]["value"])
    gap = _gap(frames, found[first], found[against])
    between = FEW if gap.low is None else f"[{gap.low:+.3f}, {gap.high:+.3f}]"
    notes.append(f"{first} minus {against}: {gap.value:+.3f} {between}")
    if len(methods) > 1:
        notes.append("Chosen: " + ", ".join(f"{name} {times} times" for name, times in chosen.items()))
    facts = {"folds": folds, "seeds": seeds, "figures": figures, "notes": notes, "gap": asdict(gap)}
    return Validated(facts, found)


def _check(frames: Frames, folds: int) -> None:
    for label, what in ((0, "good"), (1, "defective")):
        recordings = {str(one) for one in frames.recording[frames.label == label]}
        if len(recordings) < folds or folds < 2:
            raise UsageError(
                f"--folds {folds}: {what} frames come from {len(recordings)} recordings; at least one a fold "
                "is needed, and two folds"
            )


def _splits(frames: Frames, among: NDArray[np.intp], folds: int, seed: int) -> Iterator[Split]:
    """Positions (train, test) into `frames`, out of the positions `among`."""
    from sklearn.model_selection import StratifiedGroupKFold

    parts = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for train, test in parts.split(among, frames.label[among], frames.recording[among]):
        yield among[train], among[test]


def probe_name(recipe: Recipe) -> str:
    """What a probe is of: the backbone and its weights, whatever else the recipe does."""
    weights = Path(recipe.model.weights).name
    return f"{PROBE}: {recipe.model.backbone} {recipe.model.alpha:g}, {weights}"


def _probe(recipe: Recipe) -> Recipe:
    """The same backbone and weights, nothing else of the recipe.

    Its logistic regression is hardly regularised: on a few dozen recordings that is the stronger probe
    (docs/training.md), and a recipe has to beat the stronger one.
    """
    replace = msgspec.structs.replace
    plain = replace(recipe.model, tone=1.0, mirrored=False)
    train = replace(
        recipe.train, epochs=0, head_copies=0, head_strength=_PROBE_STRENGTH, class_weights=True,
        recording_weights=False,
    )  # fmt: skip
    return replace(recipe, model=plain, train=train)


def _method(frames: Frames, recipe: Recipe) -> Method:
    """How to get margins by a recipe. With a frozen backbone the features of all frames are made once: they do not
    depend on the fold.
    """
    if recipe.train.epochs:

        def tuned(train: NDArray[np.intp], test: NDArray[np.intp], seed: int) -> F64:
            seeded = msgspec.structs.replace(recipe, seed=recipe.seed + seed)
            fitted = fit(frames.take(train), None, seeded, None, data_digest="")
            return margins(fitted.model, frames.gray[test])

        return tuned
    model = build(recipe.model, size=recipe.data.preprocessing.size)
    plain = embed(model, frames.gray)
    copies: dict[int, list[NDArray[np.float32]]] = {}

    def frozen(train: NDArray[np.intp], test: NDArray[np.intp], seed: int) -> F64:
        if seed not in copies:
            drawn = range(1, recipe.train.head_copies + 1)
            copies[seed] = [embed(model, frames.gray, seed=(recipe.seed + seed, one), recipe=recipe) for one in drawn]
        features = np.concatenate([block[train] for block in (plain, *copies[seed])])
        slope, offset = head(features, frames.take(train), recipe)
        return np.asarray(plain[test] @ slope + offset, dtype=np.float64)

    return frozen


def _choose(frames: Frames, methods: Mapping[str, Method], train: NDArray[np.intp], seed: int) -> str:
    """The recipe with the best inner AUC, on the training recordings alone."""
    scores = {}
    for name, method in methods.items():
        inner = np.full(len(frames), np.nan)
        for inside, outside in _splits(frames, train, _INNER, seed):
            inner[outside] = method(inside, outside, seed)
        scores[name] = float(statistics.auc(inner[train], frames.bad[train])[0])
    return max(scores, key=lambda name: scores[name])


def _mean_auc(frames: Frames, values: F64, weights: F64 | None) -> F64:
    return np.asarray(np.mean([statistics.auc(one, frames.bad, weights) for one in values], axis=0))


def _figure(frames: Frames, values: F64) -> dict[str, Any]:
    spread = statistics.interval(lambda weights: _mean_auc(frames, values, weights), frames.recording)
    return {"auc": asdict(spread), "by_seed": [float(statistics.auc(one, frames.bad)[0]) for one in values]}


def _gap(frames: Frames, one: F64, other: F64) -> statistics.Interval:
    """Difference of two mean AUCs on the same draws of recordings."""
    return statistics.interval(
        lambda weights: _mean_auc(frames, one, weights) - _mean_auc(frames, other, weights), frames.recording
    )


def out_of_fold(validated: Validated, name: str) -> F64:
    """Margins of every frame by a model that never saw its recording, mean of the seeds: float [n]."""
    return np.asarray(validated.margins[name].mean(axis=0))


def names_of(recipes: Sequence[Recipe]) -> list[str]:
    """A short name for each recipe that tells it from the others."""
    names: list[str] = []
    for recipe in recipes:
        name = f"{recipe.name}, {recipe.model.backbone} {recipe.model.alpha:g}"
        names.append(name if name not in names else f"{name} ({len(names) + 1})")
    return names
