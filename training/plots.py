"""The report's pictures, as SVG text. Nothing here computes a figure that is judged by."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from training import statistics
from training.statistics import F64, Bools

GOOD, BAD, LINE, FAINT = "#1f77b4", "#c0392b", "#222222", "#999999"
_MANY = 30  #: frames in one bar from which a linear axis would hide the bars of single frames


def _axes(title: str, width: float = 4.6, height: float = 3.6) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _legend(figure: Any) -> None:
    """Below the axes, where it covers nothing."""
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)


def _svg(figure: Any) -> str:
    import matplotlib

    buffer = io.StringIO()
    # Fixed ids and no date: the same figures give the same bytes.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "weldwatch", "font.size": 9}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def trade(curves: Mapping[str, tuple[F64, Bools]], points: Mapping[str, tuple[float, float]]) -> str:
    """Escapes against overkill along all thresholds; `points` are the operating points (overkill, escape)."""
    figure, axes = _axes("Escapes against overkill, all thresholds")
    least = []
    for (name, (defect, bad)), colour in zip(curves.items(), (LINE, GOOD, FAINT), strict=False):
        over, escape, _ = statistics.roc(defect, bad)
        axes.step(over * 100, escape * 100, where="post", color=colour, label=name, linewidth=1.4)
        axes.plot(points[name][0] * 100, points[name][1] * 100, "o", color=colour, clip_on=False)
        least.append(float(np.min(np.maximum(over, escape))) * 100)
    # Wide enough for the bend of every curve and for every operating point, and no wider: a good curve hugs the corner.
    places = [100 * value for name in curves for value in points[name] if np.isfinite(value)]
    most = min(102.0, 1.15 * max([10.0, *places, *(2 * value for value in least if np.isfinite(value))]))
    axes.set(xlabel="overkill, % of good frames", ylabel="escapes, % of defective frames")
    axes.set(xlim=(-most / 40, most), ylim=(-most / 40, most))
    _legend(figure)
    return _svg(figure)


def calibration(bins: Sequence[Mapping[str, float]]) -> str:
    """What was said against what was."""
    figure, axes = _axes("Calibration: what was said against what was")
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle="--")
    axes.plot([b["said"] for b in bins], [b["was"] for b in bins], "o-", color=LINE, linewidth=1.2)
    axes.set(xlabel="defect probability said", ylabel="share that was defective", xlim=(-0.02, 1.02))
    axes.set(ylim=(-0.02, 1.02))
    return _svg(figure)


def spread(defect: F64, bad: Bools, threshold: float, review: Sequence[float] | None) -> str:
    """How many frames of either class score where."""
    from matplotlib import ticker

    figure, axes = _axes("Defect probability of the frames")
    edges = np.linspace(0, 1, 41)
    axes.hist(defect[~bad], edges, color=GOOD, alpha=0.75, label="good")
    axes.hist(defect[bad], edges, color=BAD, alpha=0.6, label="defective")
    axes.axvline(threshold, color=LINE, linewidth=1.4, label=f"threshold {threshold:.3f}")
    if review:
        axes.axvspan(review[0], review[1], color="#f1c40f", alpha=0.35, label="a person looks", zorder=0)
    counts = [np.histogram(one, edges)[0].max(initial=0) for one in (defect[~bad], defect[bad])]
    many = max(counts) > _MANY
    axes.set(xlabel="defect probability", ylabel="frames" + (" (logarithmic above 1)" if many else ""), xlim=(0, 1))
    if many:
        axes.set_yscale("symlog", linthresh=1)
        axes.set_ylim(0, max(counts) * 1.3)
    axes.yaxis.set_major_locator(
        ticker.SymmetricalLogLocator(base=10, linthresh=1) if many else ticker.MaxNLocator(5, integer=True)
    )
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    _legend(figure)
    return _svg(figure)


def classes(table: Mapping[str, Mapping[str, Any]]) -> str:
    """AUC of each kind of defect with its interval over recordings."""
    rows = [(name, row["auc"]) for name, row in table.items() if row.get("auc") and row["auc"]["value"] is not None]
    figure, axes = _axes("Each kind of defect", 4.6, 1.0 + 0.42 * max(len(rows), 2))
    for place, (_, figures) in enumerate(rows):
        if figures["low"] is not None:
            axes.plot([figures["low"], figures["high"]], [place, place], color=FAINT, linewidth=3)
        axes.plot(figures["value"], place, "o", color=LINE)
    lowest = min((r["low"] if r["low"] is not None else r["value"] for _, r in rows), default=0.5)
    axes.set(xlabel="AUC against all good frames", xlim=(min(0.9, lowest - 0.02), 1.005))
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.invert_yaxis()
    return _svg(figure)


def history(epochs: Sequence[Mapping[str, Any]], best: int) -> str:
    """Losses along the epochs, and the epoch that was kept."""
    from matplotlib import ticker

    figure, axes = _axes("Loss along the training")
    seen = [e for e in epochs if e["loss"] is not None]
    axes.plot([e["epoch"] for e in seen], [e["loss"] for e in seen], color=FAINT, label="training")
    axes.plot([e["epoch"] for e in epochs], [e["val_loss"] for e in epochs], color=LINE, label="validation")
    axes.axvline(best, color=GOOD, linewidth=1, linestyle="--", label="kept")
    axes.set(xlabel="epoch (0: head alone)", ylabel="log loss, nats", ylim=(0, None))
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    _legend(figure)
    return _svg(figure)
