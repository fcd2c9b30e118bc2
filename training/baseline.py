"""The learnt-nothing check: what gray levels alone give away about a set of frames.

A set whose classes differ in brightness or in the mean picture proves nothing about a network that separates them. The
baseline is as strong as a simple one can be: histogram, coarse mean image and its contrast, row and column profiles,
each frame as it is and with its exposure taken out, in a standardised logistic regression over several strengths of
regularisation; the best strength counts. It knows no edge, no shape, and no place finer than a sixteenth of the frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_GRID = 16
_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)


@dataclass(frozen=True)
class Baseline:
    """AUC of the baseline, folds pooled: with folds by recording (honest) and with folds by frame (leaky)."""

    by_recording: float
    by_frame: float
    frames: int
    recordings: int


def features(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Features float32 [n, k] of gray frames uint8 [n, h, w] with h and w multiples of 16 (128 as a rule)."""
    count, height, width = images.shape
    if height % _GRID or width % _GRID:
        raise ValueError(f"frames of {height}x{width}: both must be multiples of {_GRID}")
    blocks = images.reshape(count, _GRID, height // _GRID, _GRID, width // _GRID).astype(np.float32) / 255
    mean, spread = blocks.mean((2, 4)), blocks.std((2, 4))
    levels = mean.mean((1, 2), keepdims=True)
    rows, columns = images.mean(2) / 255, images.mean(1) / 255
    bins = images >> 3
    histogram = np.stack([np.bincount(frame.ravel(), minlength=32) for frame in bins]) / (height * width)
    parts = [mean, spread, mean / (levels + 0.02), rows, columns, np.sqrt(histogram), np.sqrt(np.cumsum(histogram, 1))]
    return np.concatenate([part.reshape(count, -1) for part in parts], axis=1, dtype=np.float32)


def check(
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    recordings: list[str],
    *,
    folds: int = 5,
    seed: int = 0,
) -> Baseline:
    """Cross-validated AUC of the baseline: gray frames uint8 [n, h, w], labels 0/1 [n], names of the recordings [n].

    `by_recording` never sees a recording in both halves; `by_frame` does, and shows how far a split by frame would
    flatter. Raises ValueError when there are fewer recordings than folds or only one class.
    """
    names = np.asarray(recordings)
    if len(np.unique(labels)) != 2:
        raise ValueError("the check needs both classes, 0 and 1")
    if len(np.unique(names)) < folds:
        raise ValueError(f"{len(np.unique(names))} recordings: at least as many as folds ({folds}) are needed")
    table = features(images)
    return Baseline(
        by_recording=_best_auc(table, labels, names, folds, seed),
        by_frame=_best_auc(table, labels, np.arange(len(labels)), folds, seed),
        frames=len(labels),
        recordings=len(np.unique(names)),
    )


def _best_auc(
    table: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    groups: npt.NDArray[np.generic],
    folds: int,
    seed: int,
) -> float:
    """The best strength's mean AUC over the folds: choosing on the test folds only helps the baseline, never us."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scores: dict[float, list[float]] = {strength: [] for strength in _STRENGTHS}
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for train, test in splitter.split(table, labels, groups):
        # A rotation onto the train frames' own axes loses nothing that a ridge penalty could use, and is much faster.
        axes = make_pipeline(StandardScaler(), PCA(min(400, len(train) - 1), svd_solver="full"))
        seen, unseen = axes.fit_transform(table[train]), axes.transform(table[test])
        for strength in _STRENGTHS:
            model = LogisticRegression(C=strength, max_iter=400).fit(seen, labels[train])
            scores[strength].append(float(roc_auc_score(labels[test], model.decision_function(unseen))))
    return max(float(np.mean(values)) for values in scores.values())
