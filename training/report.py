"""The evaluation as one HTML file that stands alone, and the same figures as JSON.

Invariants: every rate stands beside its interval; synthetic data and a leaky split are said first and loudest; text
that comes from files and folders is escaped; the page loads nothing.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agent.bundle.manifest import WeightsOrigin
from agent.ports import Decision
from training import evaluate, plots
from training.dataset import Dataset, Frames
from training.intervals import FEW
from training.recipe import Recipe, as_data
from training.statistics import F64

_CSS = """
body{font:15px/1.5 system-ui,sans-serif;color:#222;max-width:1100px;margin:2em auto;padding:0 1em}
h1{font-size:1.6em;margin-bottom:.2em}h2{font-size:1.2em;margin-top:2em;border-bottom:1px solid #ddd}
table{border-collapse:collapse;margin:.6em 0;font-size:13px}
td,th{padding:.25em 1em .25em 0;text-align:left;vertical-align:top}
th{font-weight:600;border-bottom:1px solid #bbb}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
td.n,th.n{white-space:nowrap}details{margin-top:2em}summary{font-size:1.2em;font-weight:600;cursor:pointer}.wide{overflow-x:auto}
.loud{background:#b00020;color:#fff;padding:.7em 1em;font-weight:600;border-radius:4px}
.note{color:#666}.plots{display:flex;flex-wrap:wrap;gap:1em}.plots svg{max-width:480px;height:auto}
figure{display:inline-block;margin:0 .6em .8em 0;width:132px;vertical-align:top}figure img{width:128px;height:128px}
figcaption{font-size:11px;line-height:1.3;overflow-wrap:anywhere}.bad{color:#b00020;font-weight:600}
"""


@dataclass(frozen=True)
class About:
    """What a report says beside the figures: the title, the data in numbers and words, and how the model came to be."""

    title: str
    digest: str  #: of the data
    counts: Mapping[str, Mapping[str, int]]  #: side to class (and "recordings") to frames
    notes: Sequence[str]
    recipe: Mapping[str, Any]
    history: Mapping[str, Any]  #: training.json; empty where it is not at hand
    weights: WeightsOrigin | None = None  #: what the training started from


def about(data: Dataset, recipe: Recipe, history: Mapping[str, Any], weights: WeightsOrigin) -> About:
    """The words for a bundle's own report."""
    index = data.index
    left_out = (
        f"{len(index.unreadable)} frames unreadable, {len(index.duplicates)} repeated, {index.available} labelled in "
        f"all; split by {index.split}"
    )
    notes = [*index.warnings, left_out]
    title = f"{recipe.name} {recipe.version}"
    return About(title, index.digest, data.counts(), notes, as_data(recipe), history, weights)


def as_json(metrics: Mapping[str, Any]) -> bytes:
    """The figures as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(metrics), indent=1) + b"\n"


def render(metrics: Mapping[str, Any], about: About, test: Frames, defect: Mapping[str, F64]) -> str:
    """The whole page. `defect` holds each variant's defect probabilities of the frames `test`."""
    first = next(iter(metrics["variants"]))
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_e(about.title)}: evaluation</title>'
        f"<style>{_CSS}</style><h1>{_e(about.title)}</h1>",
        *(f'<p class="loud">{_e(text)}</p>' for text in [*_unfit(metrics), *_loud(metrics)]),
        _summary(metrics, first, about),
        _variants_table(metrics),
        '<h2>Pictures</h2><div class="plots">',
        *_pictures(metrics, first, test, defect, about.history),
        "</div>",
        _classes_table(metrics["variants"][first]["test"]),
        _folds_table(metrics.get("folds")),
        _recordings_table(metrics["variants"][first]["test"]),
        _worst(metrics["variants"][first]["test"], test, defect[first], about.recipe.get("classes", ())),
        _data(about),
        _recipe(about),
    ]
    return "\n".join(part for part in parts if part) + "</html>\n"


def _unfit(metrics: Mapping[str, Any]) -> list[str]:
    said = metrics.get("not_fit")
    return [f"{said[:1].upper()}{said[1:]}."] if said else []


def _loud(metrics: Mapping[str, Any]) -> list[str]:
    said = []
    if metrics["synthetic"]:
        said.append("SYNTHETIC: trained and tested on drawn frames. Nothing here holds for real welds.")
    if metrics["split"] == "frame":
        said.append("LEAKY SPLIT: neighbouring frames lie in train and test. These figures do not hold on the line.")
    return said


def _summary(metrics: Mapping[str, Any], first: str, about: About) -> str:
    if metrics.get("folds"):
        return _folds_summary(metrics, first, about)
    one = metrics["variants"][first]
    test, promised = one["test"], one.get("promised")
    aim = "which the bundle carries"
    if promised:
        aim = f"chosen on validation for at most {promised['target']:.1%} escapes"
    said = (
        f"<p>On {test['frames']} frames of {test['recordings']} recordings that took no part in training, the AUC is "
        f"<b>{_interval(test['auc'])}</b>. At the threshold {test['threshold']:.3f}, {aim}, "
        f"<b>{_percent(test['escape_rate'])}</b> of the defective frames escape and "
        f"<b>{_percent(test['overkill_rate'])}</b> of the good ones are rejected. "
    )
    if promised:
        kept = "and it was kept" if promised["kept"] else '<b class="bad">and it was not kept</b>'
        said += f"Validation promised escapes within {_range(promised['escapes'])}, {kept}. "
    return (
        f"{said}In brackets: {test['auc']['confidence']:.0%} intervals by bootstrap over "
        "recordings, of rates never narrower than Wilson's for so many observations as recordings.</p>"
        f"<p class='note'>Calibration error (ECE) {test['ece']:.3f}"
        + (f" after temperature {metrics['temperature']:.2f}" if "temperature" in metrics else "")
        + "."
        + (
            f" Keras and the agent's session differ by {metrics['parity']['keras_to_agent']:.1e} at most."
            if "parity" in metrics
            else ""
        )
        + f" Data {_e(about.digest[:16])}…</p>"
    )


def _folds_summary(metrics: Mapping[str, Any], first: str, about: About) -> str:
    test, folds = metrics["variants"][first]["test"], metrics["folds"]
    figure = _interval(folds["figures"][first]["auc"])
    return (
        f"<p>{test['frames']} frames of {test['recordings']} recordings, each judged by models that never saw its "
        f"recording: AUC <b>{figure}</b> ({_e(first)}; mean of {folds['seeds']} seeds). In brackets: "
        f"{test['auc']['confidence']:.0%} interval by bootstrap over recordings.</p>"
        "<p class='note'>Below, the seeds' mean margins stand for one model, neither calibrated nor with a threshold "
        "of its own, since cross-validation leaves no frames to choose them on: rates and calibration are shown at "
        f"the even threshold and promise nothing. Data {_e(about.digest[:16])}…</p>"
    )


def _variants_table(metrics: Mapping[str, Any]) -> str:
    rows = []
    for name, one in metrics["variants"].items():
        test, band, promised = one["test"], one["test"]["review_band"], one.get("promised")
        known = f" [{promised['low']:.4f}, {promised['high']:.4f}]" if promised else ""
        rows.append(
            [
                _e(name), _interval(test["auc"]), f"{test['threshold']:.4f}{known}", _percent(test["escape_rate"]),
                _range(promised["escapes"]) if promised else "–", _percent(test["overkill_rate"]),
                f"{band[0]:.3f} … {band[1]:.3f}: {_percent(test['with_review']['review_share'])}" if band else "none",
                f"{test['ece']:.3f}",
            ]
        )  # fmt: skip
    titles = ["variant", "AUC", "threshold", "escapes", "promised", "overkill", "a person looks", "ECE"]
    return "<h2>Variants</h2>" + _table(titles, rows)


def _pictures(
    metrics: Mapping[str, Any], first: str, test: Frames, defect: Mapping[str, F64], history: Mapping[str, Any]
) -> list[str]:
    found = metrics["variants"]
    points = {n: (v["test"]["overkill_rate"]["value"], v["test"]["escape_rate"]["value"]) for n, v in found.items()}
    one = found[first]["test"]
    drawn = [
        plots.trade({name: (defect[name], test.bad) for name in found}, points),
        plots.spread(defect[first], test.bad, one["threshold"], one["review_band"]),
        plots.calibration(one["reliability"]),
        plots.classes(one["per_class"]),
    ]
    if len(history.get("history", ())) > 1:
        drawn.append(plots.history(history["history"], history["best"]))
    return [f"<div>{svg}</div>" for svg in drawn]


def _classes_table(test: Mapping[str, Any]) -> str:
    rows = [
        [
            _e(name), str(row["frames"]), str(row["recordings"]), _interval(row.get("auc")),
            _percent(row.get("escape_rate")), _percent(row.get("overkill_rate")),
        ]
        for name, row in test["per_class"].items()
    ]  # fmt: skip
    titles = ["class", "frames", "recordings", "AUC against good", "escapes", "overkill"]
    return "<h2>By class</h2>" + _table(titles, rows)


def _folds_table(folds: Mapping[str, Any] | None) -> str:
    """Grouped cross-validation: every recipe tried, with the probe that it has to beat."""
    if not folds:
        return ""
    rows = [
        [_e(name), _interval(one["auc"]), " ".join(f"{value:.3f}" for value in one["by_seed"])]
        for name, one in folds["figures"].items()
    ]
    return (
        f"<h2>Grouped cross-validation, {folds['folds']} folds, {folds['seeds']} seeds</h2>"
        + _table(["what", "AUC by recording", "each seed"], rows)
        + "".join(f"<p class='note'>{_e(text)}</p>" for text in folds["notes"])
    )


def _recordings_table(test: Mapping[str, Any]) -> str:
    rows = [
        [
            _e(row["recording"]), str(row["good"]), str(row["defective"]), str(row["escapes"]), str(row["overkill"]),
            "–" if row["auc"] is None else f"{row['auc']:.3f}",
        ]
        for row in test["per_recording"]
    ]  # fmt: skip
    titles = ["recording", "good", "defective", "escapes", "overkill", "AUC within"]
    return "<h2>By recording, the worst first</h2>" + _table(titles, rows)


def _worst(test: Mapping[str, Any], frames: Frames, defect: F64, classes: Sequence[str]) -> str:
    decision = Decision(("no defect", "defect"), (0,), test["threshold"], None)
    chosen = evaluate.worst_frames(defect, frames, decision)
    parts = ["<h2>Worst frames</h2>"]
    for what, title in (("escapes", "Defects that passed"), ("overkill", "Good frames that were rejected")):
        parts.append(f"<h3>{title}</h3>" if chosen[what] else f"<p>{title}: none.</p>")
        for at in chosen[what]:
            kind = int(frames.kind[at])
            name = classes[kind] if kind < len(classes) else f"class {kind}"
            words = f"p {defect[at]:.3f}, {_e(name)}<br>{_e(str(frames.recording[at]))}"
            picture = f'<img alt="" src="{_png(frames.gray[at])}">'
            parts.append(f"<figure>{picture}<figcaption>{words}</figcaption></figure>")
    return "\n".join(parts)


def _data(about: About) -> str:
    names = list(next(iter(about.counts.values())))
    rows = [[_e(name), *(str(about.counts[side][name]) for side in about.counts)] for name in names]
    said = "".join(f"<li>{_e(text)}</li>" for text in about.notes)
    return "<h2>Data</h2>" + _table(["frames", *about.counts], rows) + f"<ul>{said}</ul>"


def _recipe(about: About) -> str:
    text = msgspec.yaml.encode(dict(about.recipe)).decode()
    made = ", ".join(f"{name} {version}" for name, version in dict(about.history.get("made_with", {})).items())
    start = about.weights
    origin = (
        f"<p>Started from {_e(start.name)}: {_e(start.origin)}; licence {_e(start.licence)}"
        + (f"; SHA-256 <code>{_e(start.sha256)}</code>" if start.sha256 else "")
        + ".</p>"
        if start
        else ""
    )
    return (
        f"<h2>Making</h2>{origin}{_kept(about.history)}<p class='note'>{_e(made)}</p>"
        f"<details><summary>The whole recipe</summary><pre>{_e(text)}</pre></details>"
    )


def _kept(history: Mapping[str, Any]) -> str:
    """Which epoch's model it is, in words."""
    if not history.get("history"):
        return ""
    best, last = history["best"], history["history"][-1]["epoch"]
    if last == 0:
        return "<p>The backbone was kept as it came; the head alone was fitted.</p>"
    if best == 0:
        return (
            f"<p>Fine-tuning did not help: none of its {last} epochs had a lower validation loss, so the model is the "
            "backbone as it came, with the fitted head.</p>"
        )
    return f"<p>Of {last} epochs of fine-tuning, the model is that of epoch {best}: its validation loss was lowest.</p>"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th class="{"n" if at else ""}">{_e(title)}</th>' for at, title in enumerate(titles))
    body = "".join(
        "<tr>" + "".join(f'<td class="{"n" if at else ""}">{cell}</td>' for at, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _interval(figure: Mapping[str, Any] | None) -> str:
    if figure is None or figure["value"] is None:
        return "–"
    between = FEW if figure["low"] is None else f"[{figure['low']:.3f}, {figure['high']:.3f}]"
    return f"{figure['value']:.3f} {between}"


def _percent(figure: Mapping[str, Any] | None) -> str:
    if figure is None or figure["value"] is None:
        return "–"
    return f"{figure['value']:.1%} {_range(figure)}"


def _range(figure: Mapping[str, Any]) -> str:
    return FEW if figure["low"] is None else f"[{figure['low']:.1%}, {figure['high']:.1%}]"


def _png(gray: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(gray).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _e(text: str) -> str:
    return html.escape(text)


def lines(metrics: Mapping[str, Any]) -> list[str]:
    """The figures in a few lines for a terminal; that a model is not fit is for the caller to say last."""
    said = _loud(metrics)
    for name, one in ({} if metrics.get("folds") else metrics["variants"]).items():
        test, promised = one["test"], one.get("promised")
        aim = f" (promised {_range(promised['escapes'])})" if promised else ""
        said.append(
            f"{name}: AUC {_interval(test['auc'])}, escapes {_percent(test['escape_rate'])}{aim}, overkill "
            f"{_percent(test['overkill_rate'])}, ECE {test['ece']:.3f}, on {test['frames']} frames of "
            f"{test['recordings']} recordings"
        )
    for name, one in (metrics.get("folds") or {"figures": {}})["figures"].items():
        seeds = " ".join(f"{value:.3f}" for value in one["by_seed"])
        said.append(f"{name}: AUC by recording {_interval(one['auc'])} (seeds {seeds})")
    return said
