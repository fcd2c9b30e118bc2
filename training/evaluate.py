"""What a model is worth on recordings never seen: every figure with its interval over recordings.

Invariants
- Probabilities come from the agent's own session, so the figures hold for what runs on the station.
- Nothing is chosen here: temperature, threshold and review band are given, having been chosen on validation.
- An escape is a defective frame that passes as OK; overkill is a good frame that is NotOK. Both are counted at the
  threshold, as promised on validation, and again with the review band, which takes frames away from both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.bundle.preprocess import to_input
from agent.model.session import OnnxModel
from agent.ports import Decision
from training import statistics
from training.dataset import Frames
from training.intervals import Over
from training.recipe import Choice
from training.statistics import F64, Bools, Interval

_BATCH = 32
WORST = 12

#: Told of frames: done, total.
Progress = Callable[[int, int], None]


def probabilities(model: OnnxModel, gray: NDArray[np.uint8], progress: Progress | None = None) -> NDArray[np.float32]:
    """The first output for frames uint8 [n, 128, 128], float32 [n, classes], through the agent's session."""
    found = []
    for start in range(0, len(gray), _BATCH):
        found.append(model.probabilities(np.concatenate([to_input(one) for one in gray[start : start + _BATCH]])))
        if progress is not None:
            progress(min(start + _BATCH, len(gray)), len(gray))
    return np.concatenate(found) if found else np.zeros((0, len(model.manifest.labels)), dtype=np.float32)


def defect_probability(probability: NDArray[np.float32], good: Sequence[int]) -> F64:
    """The share of the labels that are not good, float64 [n], as `agent.bundle.postprocess.decide` sums it."""
    bad = [index for index in range(probability.shape[1]) if index not in good]
    return np.asarray(probability[:, bad].astype(np.float64).sum(axis=1))


def measure(defect: F64, frames: Frames, classes: Sequence[str], decision: Decision, choice: Choice) -> dict[str, Any]:
    """All figures of one set of frames, as plain data for manifest, JSON and report.

    `defect` float [n] in 0…1. Rates are shares of 0…1; an interval is {value, low, high, confidence, recordings}.
    """
    bad, recordings = frames.bad, frames.recording
    passed, review = _verdicts(defect, decision)
    below = defect < decision.threshold

    over = Over(recordings, choice.confidence, choice.draws)

    def rate(hit: Bools, among: Bools) -> dict[str, Any]:
        return asdict(over.rate(hit, among))

    everything = np.ones(len(bad), dtype=bool)
    return {
        "frames": len(frames),
        "good": int((~bad).sum()),
        "defective": int(bad.sum()),
        "recordings": len(np.unique(recordings)),
        "threshold": decision.threshold,
        "review_band": decision.review,
        "auc": asdict(over.auc(defect, bad)),
        "auc_within_recordings": _within(defect, bad, recordings),
        "escape_rate": rate(below, bad),
        "overkill_rate": rate(~below, ~bad),
        "with_review": {
            "review_share": rate(review, everything),
            "escape_rate": rate(passed, bad),
            "overkill_rate": rate(~passed & ~review, ~bad),
        },
        "ece": statistics.ece(defect, bad),
        "log_loss": float(-np.mean(np.log(np.clip(np.where(bad, defect, 1 - defect), 1e-12, 1)))),
        "reliability": [asdict(one) for one in statistics.reliability(defect, bad)],
        "per_class": _per_class(defect, below, frames, classes, over),
        "per_recording": _per_recording(defect, below, frames),
    }


def _verdicts(defect: F64, decision: Decision) -> tuple[Bools, Bools]:
    """Which frames pass as OK, and which go to a person; as `decide`, for arrays."""
    review = np.zeros(len(defect), dtype=bool)
    if decision.review is not None:
        review = (defect >= decision.review[0]) & (defect < decision.review[1])
    return (defect < decision.threshold) & ~review, review


def _within(defect: F64, bad: Bools, recordings: NDArray[Any]) -> float | None:
    """Mean AUC inside the recordings that have both good and defective frames: what is left when light, plate and
    torch cannot help.
    """
    found = [statistics.auc(defect[mine], bad[mine])[0] for mine in (recordings == r for r in np.unique(recordings))]
    known = [float(one) for one in found if not np.isnan(one)]
    return float(np.mean(known)) if known else None


def _per_class(defect: F64, below: Bools, frames: Frames, classes: Sequence[str], over: Over) -> dict[str, Any]:
    """Each original class: a defect's AUC against all good frames and its escapes; a good class's overkill."""
    table: dict[str, Any] = {}
    for kind, name in enumerate(classes):
        mine = frames.kind == kind
        if not mine.any():
            continue
        row: dict[str, Any] = {"frames": int(mine.sum()), "recordings": len(np.unique(frames.recording[mine]))}
        if frames.bad[mine].any():
            against = mine | ~frames.bad
            facing = replace(over, recordings=frames.recording[against])
            row["auc"] = asdict(facing.auc(defect[against], frames.bad[against]))
            row["escape_rate"] = asdict(over.rate(below, mine))
        else:
            row["overkill_rate"] = asdict(over.rate(~below, mine))
        table[name] = row
    return table


def _per_recording(defect: F64, below: Bools, frames: Frames) -> list[dict[str, Any]]:
    """Each recording's frames, escapes and overkill, the worst first."""
    rows = []
    for recording in np.unique(frames.recording):
        mine = frames.recording == recording
        bad = frames.bad[mine]
        area = float(statistics.auc(defect[mine], bad)[0])
        rows.append(
            {
                "recording": str(recording),
                "good": int((~bad).sum()),
                "defective": int(bad.sum()),
                "escapes": int((below[mine] & bad).sum()),
                "overkill": int((~below[mine] & ~bad).sum()),
                "auc": None if np.isnan(area) else area,
            }
        )
    return sorted(rows, key=lambda row: -(row["escapes"] + row["overkill"]) / (row["good"] + row["defective"]))


def worst_frames(defect: F64, frames: Frames, decision: Decision, most: int = WORST) -> dict[str, list[int]]:
    """Positions of the frames that are most wrong: escapes (least defect probability first) and overkill."""
    below, bad = defect < decision.threshold, frames.bad
    escapes = [int(at) for at in np.argsort(defect, kind="stable") if below[at] and bad[at]]
    overkill = [int(at) for at in np.argsort(-defect, kind="stable") if not below[at] and not bad[at]]
    return {"escapes": escapes[:most], "overkill": overkill[:most]}


def promise_kept(promised: Interval, achieved: dict[str, Any]) -> bool:
    """Whether the rate achieved on test lies in the interval promised on validation."""
    return promised.contains(achieved["value"])
