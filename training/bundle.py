"""`bundle`: from a fitted model to a `.pipeline` file that a quality engineer can defend.

ONNX variants and the calibration of each (validation) ─▶ parity ─▶ threshold of each (validation) ─▶ figures (test)
                         ─▶ golden images ─▶ report ─▶ archive ─▶ the agent's own self-test

Invariants: every probability behind a threshold or a figure comes from the agent's session on the very bytes that go
into the bundle; test frames choose nothing; golden images lie so far from every limit that no machine's rounding
flips them.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image

from agent.bundle import archive
from agent.bundle.archive import Archive
from agent.bundle.manifest import DecisionRule, Golden, Manifest, TrainingFacts, Variant, WeightsOrigin
from agent.bundle.scripts import scripts
from agent.clock import Clock, SystemClock, iso_utc
from agent.errors import FatalError
from agent.model.session import OnnxModel, self_test
from training import evaluate, fitness, parity, report, statistics
from training.dataset import Dataset, Frames
from training.export import to_onnx
from training.fit import Tell, margins, quiet
from training.quantize import to_int8
from training.recipe import Recipe, as_data
from training.statistics import F64, Threshold

#: How far golden outputs may be off on another machine: float rounding; int8 rounds in steps that kernels differ in.
_TOLERANCE = {"fp32": 1e-3, "int8": 0.05}
SYNTHETIC_NOTICE = "trained on synthetic frames; must not judge real welds"


@dataclass(frozen=True)
class Made:
    """A finished bundle."""

    path: Path
    manifest: Manifest
    metrics: dict[str, Any]


@dataclass(frozen=True)
class _Variant:
    """One variant with what was found of it."""

    model: OnnxModel
    val: F64  #: defect probability of validation frames
    test: F64
    threshold: Threshold
    rule: DecisionRule


@dataclass(frozen=True)
class Export:
    """An ONNX file, and the calibration that is folded into it."""

    onnx: bytes
    temperature: float
    shift: float = 0.0  #: of the margin


def export(model: Any, val: Frames, recipe: Recipe) -> dict[str, Export]:
    """The recipe's ONNX variants by name, each with a calibration of its own, fitted on validation frames.

    Quantising moves the margins, all of them one way, so int8 is measured first, then exported anew with the
    temperature and the shift that it needs: the head stays in float, and the rest of the graph depends on neither.
    """
    plain = statistics.fit_temperature(margins(model, val.gray), val.bad)
    variants = {"fp32": Export(to_onnx(model, plain), plain)}
    if "int8" in recipe.export.variants:
        calibration = _calibration(val, recipe)
        first = to_int8(variants["fp32"].onnx, calibration)
        temperature, shift = statistics.fit_temperature_and_shift(plain * _margins_of(first, val, recipe), val.bad)
        variants["int8"] = Export(to_int8(to_onnx(model, temperature, shift), calibration), temperature, shift)
    return {name: variants[name] for name in recipe.export.variants}


def _margins_of(graph: bytes, val: Frames, recipe: Recipe) -> F64:
    """Defect minus no defect, in logits, as the agent's session gives them for int8; float64 [n]."""
    with _draft(recipe, {"int8": graph}) as models:
        found = evaluate.probabilities(models["int8"], val.gray).astype(np.float64)
    logs = np.log(np.clip(found, np.finfo(np.float32).tiny, 1))
    return np.asarray(logs[:, 1] - logs[:, 0])


def make_bundle(
    model: Any, history: Mapping[str, Any], data: Dataset, recipe: Recipe, weights: WeightsOrigin, out: Path,
    *, tell: Tell = quiet, clock: Clock | None = None,
) -> Made:  # fmt: skip
    """Export, choose, measure and write `<name>-<version>.pipeline` with its report into the folder `out`.

    Raises FatalError where parity or the self-test fails; nothing is then written.
    """
    val, test = data.split("val"), data.split("test")
    tell("export", 0, 1, "")
    exported = export(model, val, recipe)
    files = {name: one.onnx for name, one in exported.items()}
    with _draft(recipe, files) as models:
        found = {name: _look(one, val, test, recipe, exported[name], tell) for name, one in models.items()}
        first = next(iter(found.values()))
        exact = found.get("fp32", first)
        keras = parity.calibrated(margins(model, val.gray), exact.rule.temperature)
        worst = parity.gate(keras, exact.val, val.file) if "fp32" in found else parity.deviation(keras, first.val)
        metrics = _metrics(found, data, test, recipe, worst)
        golden, pictures = _golden(found, val, recipe)
    entries = {f"model/{name}.onnx": content for name, content in files.items()} | pictures
    page = report.render(
        metrics, report.about(data, recipe, history, weights), test, {n: one.test for n, one in found.items()}
    )
    entries |= {"report/report.html": page.encode(), "report/metrics.json": report.as_json(metrics)}
    manifest = Manifest(
        name=recipe.name, version=recipe.version, created_at=iso_utc((clock or SystemClock()).now()),
        notice=_notice(recipe, data, metrics["not_fit"]), labels=recipe.labels,
        variants={
            name: Variant(file=f"model/{name}.onnx", decision=one.rule, tolerance=_TOLERANCE[name])
            for name, one in found.items()
        },
        preprocessing=data.index.preprocessing, decision=first.rule, golden=golden,
        training=_training(data, recipe, weights, metrics, history), files={},
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{recipe.name}-{recipe.version}.pipeline"
    manifest = _write_tested(path, manifest, entries | scripts(manifest))
    for name in ("report.html", "metrics.json"):
        (out / name).write_bytes(entries[f"report/{name}"])
    return Made(path, manifest, metrics)


def _write_tested(path: Path, manifest: Manifest, entries: dict[str, bytes]) -> Manifest:
    """Write, load as the agent does, and run the self-test of every variant, before the name is taken."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        manifest = archive.write(draft, manifest, entries)
        with Archive(draft) as opened:
            for name in manifest.variants:
                self_test(opened, OnnxModel(opened, name))
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return manifest


@contextmanager
def _draft(recipe: Recipe, files: Mapping[str, bytes]) -> Iterator[dict[str, OnnxModel]]:
    """The variants in the agent's session, from a bundle that never leaves this function."""
    nobody = WeightsOrigin(name="draft", origin="draft", licence="draft")
    facts = TrainingFacts(synthetic=True, data={}, split=recipe.data.split, recipe={}, metrics={}, weights=nobody)
    even = [1 / len(recipe.labels)] * len(recipe.labels)
    manifest = Manifest(
        name=recipe.name, version=recipe.version, created_at="", labels=recipe.labels,
        variants={name: Variant(file=f"model/{name}.onnx") for name in files},
        preprocessing=recipe.data.preprocessing, decision=DecisionRule(good=[0], threshold=0.5),
        golden=[Golden(image="golden/draft.png", outputs=dict.fromkeys(files, even))], training=facts, files={},
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        path = Path(folder) / "draft.pipeline"
        entries = {f"model/{name}.onnx": content for name, content in files.items()}
        archive.write(path, manifest, {**entries, "golden/draft.png": b""})
        opened = stack.enter_context(Archive(path))
        yield {name: OnnxModel(opened, name) for name in files}


def _look(model: OnnxModel, val: Frames, test: Frames, recipe: Recipe, exported: Export, tell: Tell) -> _Variant:
    """Probabilities of one variant, and its threshold and review band, chosen on validation."""

    def defect(frames: Frames, what: str) -> F64:
        found = evaluate.probabilities(model, frames.gray, lambda done, total: tell(what, done, total, ""))
        return evaluate.defect_probability(found, [0])

    on_val, on_test = defect(val, f"{model.variant} on validation"), defect(test, f"{model.variant} on test")
    choice = recipe.decision
    threshold = statistics.choose_threshold(
        on_val, val.bad, val.recording, choice.escape_rate, overkill=choice.overkill_rate,
        confidence=choice.confidence, draws=choice.draws,
    )  # fmt: skip
    band = statistics.review_band(on_val, threshold, choice.review_share)
    rule = DecisionRule(
        good=[0], threshold=threshold.value, review=band, temperature=exported.temperature, shift=exported.shift
    )
    return _Variant(model, on_val, on_test, threshold, rule)


def _metrics(
    found: Mapping[str, _Variant], data: Dataset, test: Frames, recipe: Recipe, worst: float
) -> dict[str, Any]:
    variants = {}
    for name, one in found.items():
        decision = one.model.decision
        decision = type(decision)(decision.labels, decision.good, one.rule.threshold, one.rule.review)
        measured = evaluate.measure(one.test, test, recipe.classes, decision, recipe.decision)
        promised = asdict(one.threshold)
        promised["kept"] = evaluate.promise_kept(one.threshold.escapes, measured["escape_rate"])
        variants[name] = {"test": measured, "promised": promised, "temperature": one.rule.temperature}
    return {
        "synthetic": data.index.synthetic,
        "split": data.index.split,
        "temperature": next(iter(found.values())).rule.temperature,
        "parity": {"keras_to_agent": worst, "limit": parity.LIMIT},
        "not_fit": fitness.unfit(variants),
        "variants": variants,
    }


def _golden(found: Mapping[str, _Variant], val: Frames, recipe: Recipe) -> tuple[list[Golden], dict[str, bytes]]:
    """Validation frames that every variant is sure of, going round the classes, each from another recording if it can.

    "Sure" is at least 1 in logits away from threshold and band, on the same side for all: rounding moves less than
    that.
    """
    room = np.min([_room(one) for one in found.values()], axis=0)
    above = np.stack([one.val >= one.rule.threshold for one in found.values()])
    agreed = above.all(axis=0) | ~above.any(axis=0)
    chosen = _round(val, np.flatnonzero(agreed & (room >= 1)), recipe.export.golden)
    chosen = chosen or [int(np.argmax(np.where(agreed, room, -1)))]
    golden, pictures = [], {}
    for number, at in enumerate(chosen):
        buffer = io.BytesIO()
        Image.fromarray(val.gray[at]).save(buffer, "PNG", optimize=True)
        name = f"golden/{number:02d}-{'defect' if val.bad[at] else 'good'}.png"
        pictures[name] = buffer.getvalue()
        outputs = {}
        for variant, one in found.items():
            row = evaluate.probabilities(one.model, val.gray[at : at + 1])[0]
            outputs[variant] = [float(p) for p in row]
        golden.append(Golden(image=name, outputs=outputs))
    return golden, pictures


def _room(one: _Variant) -> F64:
    """Distance of each validation frame from the nearest limit, in logits."""
    values = _logit(one.val)
    limits = {one.rule.threshold, *(one.rule.review or ())}
    return np.asarray(np.min([np.abs(values - _logit(np.array(limit))) for limit in limits], axis=0))


def _logit(probability: F64) -> F64:
    safe = np.clip(probability, 1e-9, 1 - 1e-9)
    return np.asarray(np.log(safe) - np.log1p(-safe))


def _round(val: Frames, among: Any, most: int) -> list[int]:
    """Up to `most` of the positions `among`: good and defective in turn, kinds and recordings as different as can
    be.
    """
    chosen: list[int] = []
    for turn in range(most):
        left = [int(at) for at in among if int(at) not in chosen]
        wanted = [at for at in left if val.bad[at] == bool(turn % 2)] or left
        if not wanted:
            break
        used_kinds = [int(val.kind[at]) for at in chosen]
        used = [str(val.recording[at]) for at in chosen]
        chosen.append(
            min(wanted, key=lambda at: (used_kinds.count(int(val.kind[at])), used.count(str(val.recording[at])), at))
        )
    return chosen


def _calibration(val: Frames, recipe: Recipe) -> Any:
    """Frames that set int8's ranges: evenly spread over validation."""
    count = min(len(val), recipe.export.calibration_frames)
    return val.gray[np.linspace(0, len(val) - 1, count).astype(int)]


def _notice(recipe: Recipe, data: Dataset, not_fit: str | None) -> str | None:
    """What must be read wherever the bundle is shown."""
    said = [recipe.notice, not_fit]
    if data.index.split == "frame":
        said.insert(1, "measured on a leaky split by frame; for comparison only, must not judge")
    elif data.index.synthetic and "synthetic" not in (recipe.notice or ""):
        said.insert(1, SYNTHETIC_NOTICE)
    return "; ".join(one for one in said if one) or None


def _training(
    data: Dataset, recipe: Recipe, weights: WeightsOrigin, metrics: dict[str, Any], history: Mapping[str, Any]
) -> TrainingFacts:
    recordings = {
        side: sorted({frame.recording for frame in data.index.frames if frame.split == side})
        for side in ("train", "val", "test")
    }
    facts = {
        "digest": data.index.digest,
        "layout": data.index.layout,
        "counts": data.counts(),
        "recordings": recordings,
        "warnings": data.index.warnings,
        "unreadable": len(data.index.unreadable),
        "duplicates": len(data.index.duplicates),
    }
    short = msgspec.json.decode(msgspec.json.encode(metrics))
    for one in short["variants"].values():
        for long in ("per_recording", "reliability"):
            one["test"].pop(long, None)
    return TrainingFacts(
        synthetic=data.index.synthetic, data=facts, split=data.index.split, recipe=as_data(recipe), metrics=short,
        weights=weights, made_with=dict(history.get("made_with", {})),
    )  # fmt: skip


def check_classes(data: Dataset, recipe: Recipe) -> None:
    """Raises FatalError where set and recipe do not speak of the same classes."""
    if (data.index.classes, data.index.good) != (recipe.classes, recipe.good):
        raise FatalError(
            f"{data.directory}: prepared for classes {data.index.classes}, the recipe says {recipe.classes}; "
            "prepare it again"
        )
