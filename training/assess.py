"""`evaluate --bundle`: what any bundle is worth on any labelled frames, through the agent's own session.

Invariants: the bundle passes the agent's checks and self-test first; frames are prepared as its manifest says;
recordings that the bundle was trained or tuned on are left out, by name, unless asked for, and their absence is said.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from agent.bundle.archive import Archive
from agent.bundle.manifest import Manifest
from agent.bundle.preprocess import Preprocessing
from agent.errors import UsageError
from agent.model.session import OnnxModel, self_test
from agent.ports import Decision
from training import dataset, evaluate, fitness, parity, weights
from training import folds as validation
from training.dataset import Frames
from training.fit import Tell, quiet, versions
from training.frames import gray_of, prepare_frames, read_chunk
from training.listing import read_listing
from training.quiet import load_tensorflow
from training.recipe import Choice, Recipe, as_data
from training.report import About
from training.statistics import F64


@dataclass(frozen=True)
class Assessed:
    """The figures, and what a report needs to show them."""

    metrics: dict[str, Any]
    about: About
    frames: Frames
    defect: dict[str, F64]


@dataclass(frozen=True)
class _Given:
    """Labelled frames to measure on."""

    frames: Frames
    digest: str
    synthetic: bool
    notes: list[str]


def assess(
    bundle: Path, data: Path, *, side: str = "test", seen_too: bool = False, workers: int | None = None,
    tell: Tell = quiet,
) -> Assessed:  # fmt: skip
    """Measure every variant of `bundle` on `data`: raw frames, or the `side` of a prepared set.

    Raises UsageError where bundle and data do not fit, BundleError where the agent would refuse the bundle.
    """
    with Archive(bundle) as archive:
        manifest = archive.manifest
        classes, good = _classes(manifest, bundle)
        if dataset.is_prepared(data):
            given = _prepared(data, side, manifest)
        else:
            given = _labelled(data, classes, good, manifest.preprocessing, workers, tell)
        frames, notes = (given.frames, given.notes) if seen_too else _unseen(given, manifest)
        choice = msgspec.convert(manifest.training.recipe.get("decision", {}), Choice)
        variants: dict[str, Any] = {}
        defect: dict[str, F64] = {}
        for name in manifest.variants:
            model = OnnxModel(archive, name)
            self_test(archive, model)

            def told(done: int, total: int, name: str = name) -> None:
                tell(f"{name} on {side}", done, total, "")

            found = evaluate.probabilities(model, frames.gray, told)
            defect[name] = evaluate.defect_probability(found, model.decision.good)
            measured = evaluate.measure(defect[name], frames, classes, model.decision, choice)
            promised = manifest.training.metrics.get("variants", {}).get(name, {}).get("promised")
            variants[name] = {"test": measured, "promised": _kept(promised, measured)}
    synthetic = given.synthetic or manifest.training.synthetic
    metrics = {
        "synthetic": synthetic, "split": manifest.training.split, "data": given.digest,
        "not_fit": fitness.unfit(variants), "variants": variants,
    }  # fmt: skip
    title = f"{manifest.name} {manifest.version} on {data.name}"
    history = {"made_with": manifest.training.made_with}
    about = About(
        title,
        given.digest,
        _table(frames, classes),
        notes,
        manifest.training.recipe,
        history,
        manifest.training.weights,
    )
    return Assessed(metrics, about, frames, defect)


def _table(frames: Frames, classes: Sequence[str]) -> dict[str, dict[str, int]]:
    counts = Counter(int(kind) for kind in frames.kind)
    table = {name: counts[kind] for kind, name in enumerate(classes)}
    return {"measured": {**table, "recordings": len(np.unique(frames.recording))}}


def _classes(manifest: Manifest, bundle: Path) -> tuple[list[str], list[int]]:
    try:
        recipe = manifest.training.recipe
        return msgspec.convert(recipe["classes"], list[str]), msgspec.convert(recipe["good"], list[int])
    except (KeyError, msgspec.ValidationError):
        raise UsageError(f"{bundle}: its manifest names no classes (training.recipe.classes); make it again") from None


def _prepared(data: Path, side: str, manifest: Manifest) -> _Given:
    found = dataset.load(data)
    index = found.index
    if index.preprocessing != manifest.preprocessing:
        raise UsageError(f"{data}: prepared otherwise than the bundle wants its frames; give the raw frames")
    if (index.classes, index.good) != _classes(manifest, data):
        raise UsageError(f"{data}: has classes {', '.join(index.classes)}; the bundle was trained for others")
    frames = found.split(side)
    return _Given(frames, index.digest, index.synthetic, [f"{side} of {data.name}, split by {index.split}"])


def _labelled(
    data: Path, classes: Sequence[str], good: Sequence[int], spec: Preprocessing, workers: int | None, tell: Tell
) -> _Given:
    """Every readable frame of `data`, raw or prepared, whatever its side."""
    if dataset.is_prepared(data):
        found = dataset.load(data)
        return _Given(found.frames, found.index.digest, found.index.synthetic, [f"all frames of {data.name}"])
    listing = read_listing(data, classes)
    with tempfile.TemporaryDirectory() as work:
        chunks = prepare_frames(
            listing.root, [item.name for item in listing.items], spec, Path(work), workers=workers,
            progress=lambda done, total: tell("frames", done, total, ""),
        )  # fmt: skip
        records = [record for chunk in chunks for record in read_chunk(chunk)]
    pairs = [(item, rec) for item, rec in zip(listing.items, records, strict=True) if rec.problem is None]
    unread = [record for record in records if record.problem is not None]
    notes = [f"all readable frames of {data.name}"]
    if unread:
        notes.append(f"{len(unread)} frames cannot be read, the first is {unread[0].name}: {unread[0].problem}")
    if listing.missing:
        notes.append(f"{len(listing.missing)} labelled frames do not exist, the first is {listing.missing[0]}")
    if not pairs:
        raise UsageError(f"{data}: {notes[-1]}")
    facts = [
        dataset.FrameFacts(
            item.name, "test", int(item.kind not in good), item.kind, item.recording, item.name, rec.sha256, rec.pixels
        )
        for item, rec in pairs
    ]
    frames = Frames(
        np.stack([gray_of(record) for _, record in pairs]),
        np.array([one.label for one in facts]),
        np.array([one.kind for one in facts]),
        np.array([one.recording for one in facts], dtype=np.str_),
        [one.file for one in facts],
        [one.sha256 for one in facts],
    )
    return _Given(frames, dataset.set_digest(facts), listing.synthetic, notes)


def _unseen(given: _Given, manifest: Manifest) -> tuple[Frames, list[str]]:
    """Without the recordings that taught or tuned the bundle."""
    recordings = manifest.training.data.get("recordings", {})
    seen = set(recordings.get("train", [])) | set(recordings.get("val", []))
    keep = np.array([str(one) not in seen for one in given.frames.recording])
    if keep.all():
        return given.frames, given.notes
    if not keep.any():
        raise UsageError(
            "every recording of this data taught or tuned the bundle: a figure on them proves nothing; give others, or "
            "--seen-too to look all the same"
        )
    left = len({str(one) for one in given.frames.recording[~keep]})
    note = f"{left} recordings that taught or tuned the bundle were left out ({int((~keep).sum())} frames)"
    return given.frames.take(keep), [*given.notes, note]


def _kept(promised: Any, measured: dict[str, Any]) -> dict[str, Any] | None:
    """The bundle's promise, with whether these frames keep it."""
    if not isinstance(promised, dict) or not isinstance(promised.get("escapes"), dict):
        return None
    low, high = promised["escapes"].get("low"), promised["escapes"].get("high")
    value = measured["escape_rate"]["value"]
    return promised | {"kept": None not in (low, high, value) and low <= value <= high}


def folds(
    data: Path, recipes: Sequence[Recipe], *, folds: int, seeds: int, workers: int | None = None, tell: Tell = quiet
) -> Assessed:
    """Cross-validate `recipes` by recording on all frames of `data`; the figures are of the first row, nested if
    several.

    The threshold shown is the even one (margin 0): in cross-validation no frame is left over to choose one on.
    """
    first = recipes[0]
    if any((one.classes, one.good) != (first.classes, first.good) for one in recipes):
        raise UsageError("--folds: the recipes name different classes; compare recipes for one set")
    for recipe in recipes:
        weights.check(recipe.model)
    given = _labelled(data, first.classes, first.good, first.data.preprocessing, workers, tell)
    frames = given.frames
    load_tensorflow()
    found = validation.cross_validate(
        frames, dict(zip(validation.names_of(recipes), recipes, strict=True)), folds=folds, seeds=seeds, tell=tell
    )
    name = next(iter(found.margins))
    defect = parity.calibrated(validation.out_of_fold(found, name), 1.0)
    decision = Decision(tuple(first.labels), (0,), 0.5)
    measured = evaluate.measure(defect, frames, first.classes, decision, first.decision)
    metrics = {
        "synthetic": given.synthetic, "split": "recording", "data": given.digest,
        "variants": {name: {"test": measured}}, "folds": found.figures,
    }  # fmt: skip
    about = About(
        f"{first.name} on {data.name}: {folds} folds", given.digest, _table(frames, first.classes),
        [*given.notes, *found.figures["notes"]], as_data(first), {"made_with": versions()},
    )  # fmt: skip
    return Assessed(metrics, about, frames, {name: defect})
