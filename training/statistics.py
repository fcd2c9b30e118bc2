"""The numbers that a bundle is judged by: pure functions on arrays, without TensorFlow.

Invariants
- Frames of one recording look alike, so the recording is the unit of chance: every interval comes from resampling whole
  recordings (cluster bootstrap; Davison and Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8).
- The same arguments and seed give the same numbers. What cannot be told (no defect among the frames) is None, not 0.

Throughout: `defect` is the probability of a defect, float [n] in 0…1; `bad` is bool [n], True for a defect;
`recordings` is [n], the name or number of each frame's recording; `weights` is float [n] ≥ 0 or [b, n].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]

DRAWS = 1000
_FINEST = 1e-6


@dataclass(frozen=True)
class Interval:
    """A figure with what it may as well have been: `low` ≤ … ≤ `high` at `confidence`, from `recordings` recordings."""

    value: float | None
    low: float | None
    high: float | None
    confidence: float
    recordings: int

    def contains(self, figure: float | None) -> bool:
        """Whether `figure` lies within; False where either is unknown."""
        return figure is not None and self.low is not None and self.high is not None and self.low <= figure <= self.high


def auc(defect: F64, bad: Bools, weights: F64 | None = None) -> F64:
    """Area under the ROC curve, float [b] for weights [b, n] (or [1]): P(defect scores above good), ties count half.

    Mann-Whitney's U over weighted pairs; NaN where a draw has no good or no defective frame.
    """
    w = np.ones((1, len(defect))) if weights is None else np.atleast_2d(weights)
    if not len(defect):
        return np.full(len(w), np.nan)
    order = np.argsort(defect, kind="stable")
    _, first = np.unique(defect[order], return_index=True)
    positive = np.add.reduceat((w * bad)[:, order], first, axis=1)
    negative = np.add.reduceat((w * ~bad)[:, order], first, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    with np.errstate(invalid="ignore", divide="ignore"):
        wins = (positive * (below + negative / 2)).sum(axis=1)
        return np.asarray(wins / (positive.sum(axis=1) * negative.sum(axis=1)))


def rate(hit: Bools, among: Bools, weights: F64 | None = None) -> F64:
    """Weighted share of `hit` among the frames `among`, float [b] (or [1]); NaN where there are none."""
    w = np.ones((1, len(hit))) if weights is None else np.atleast_2d(weights)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((w @ (hit & among)) / (w @ among.astype(np.float64)))


def resample(recordings: NDArray[np.generic], draws: int = DRAWS, seed: int = 0) -> F64:
    """Frame weights [draws, n]: how often each frame's recording was drawn, with replacement, among all recordings."""
    _, index = np.unique(recordings, return_inverse=True)
    count = int(index.max()) + 1 if len(index) else 0
    rng = np.random.default_rng(np.random.SeedSequence([seed, count, 31]))
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=draws) if count else np.zeros((draws, 0))
    return np.asarray(drawn[:, index], dtype=np.float64)


def interval(
    measure: Callable[[F64 | None], F64],
    recordings: NDArray[np.generic],
    *,
    confidence: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """`measure` (weights [b, n] → float [b]) on the frames as they are, with percentiles of its bootstrap.

    Draws in which the figure is undefined do not count. There is no interval with fewer than two recordings, nor where
    all draws give the same: a point would be a certainty that so few recordings cannot give (see intervals.py).
    """
    count = len(np.unique(recordings))
    value = float(measure(None)[0]) if len(recordings) else float("nan")
    if np.isnan(value):
        return Interval(None, None, None, confidence, count)
    if count < 2:
        return Interval(value, None, None, confidence, count)
    figures = measure(resample(recordings, draws, seed))
    figures = figures[~np.isnan(figures)]
    if not len(figures):
        return Interval(value, None, None, confidence, count)
    tail = (1 - confidence) / 2
    low, high = np.quantile(figures, [tail, 1 - tail])
    low, high = float(min(low, value)), float(max(high, value))
    return (
        Interval(value, low, high, confidence, count) if low < high else Interval(value, None, None, confidence, count)
    )


def operating_threshold(defect: F64, bad: Bools, escapes: float, overkill: float, weights: F64 | None = None) -> F64:
    """The threshold for at most the share `escapes` of the defective frames below it; float [b] (or [1]).

    A frame at or above the threshold is NotOK. The highest threshold that keeps to `escapes`, and the lowest one that
    costs no more overkill than that, or than the share `overkill`, bound a range. The middle of it, in logits, is as
    far from both harms as can be; from there the threshold goes down to where it saves escapes for no further overkill.
    It lies midway between neighbouring scores. NaN where a draw lacks either class.
    """
    order = np.argsort(defect, kind="stable")
    scores, first = np.unique(defect[order], return_index=True)
    w = np.ones((1, len(defect))) if weights is None else np.atleast_2d(weights)
    if not len(scores):
        return np.full(len(w), np.nan)
    candidates, place = _candidates(scores)

    def below(among: Bools) -> F64:
        """Share of `among` under each candidate, [b, k + 1]."""
        sums = np.cumsum(np.add.reduceat((w * among)[:, order], first, axis=1), axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.concatenate([np.zeros((len(w), 1)), sums], axis=1) / sums[:, -1:])

    passed, rejected = below(bad), 1 - below(~bad)
    rows = np.arange(len(w))
    kept = passed <= escapes + 1e-9
    highest = kept.shape[1] - 1 - np.argmax(kept[:, ::-1], axis=1)
    allowed = np.maximum(rejected[rows, highest], overkill)[:, None] + 1e-9
    lowest = np.minimum(np.argmax(rejected <= allowed, axis=1), highest)
    middle = np.searchsorted(place, (place[lowest] + place[highest]) / 2)
    free = np.argmax(rejected <= rejected[rows, middle][:, None] + 1e-9, axis=1)
    known = (w @ bad > 0) & (w @ ~bad > 0)
    return np.asarray(np.where(known, candidates[free], np.nan))


def _candidates(scores: F64) -> tuple[F64, F64]:
    """Thresholds midway, in logits, between neighbouring `scores` (sorted, distinct), one below and one above all; and
    the place of each in logits. k scores give k + 1 candidates.
    """
    safe = np.clip(scores, _FINEST, 1 - _FINEST)
    logits = np.log(safe) - np.log1p(-safe)
    places = np.concatenate([[logits[0] - 1], (logits[1:] + logits[:-1]) / 2, [logits[-1] + 1]])
    between = 1 / (1 + np.exp(-places[1:-1]))
    # Scores closer together than floats can halve: the upper one itself parts them.
    between = np.where((between > scores[:-1]) & (between <= scores[1:]), between, scores[1:])
    top = 1 / (1 + np.exp(-places[-1]))
    return np.concatenate([[0.0], between, [top if top > scores[-1] else 1.0]]), places


@dataclass(frozen=True)
class Threshold:
    """An operating threshold chosen on validation, and what it promises for recordings never seen."""

    value: float
    low: float  #: of the threshold, by bootstrap over recordings
    high: float
    target: float  #: escape rate aimed at
    escapes: Interval  #: promised: chosen on some recordings, measured on the recordings left out
    overkill: Interval


def choose_threshold(
    defect: F64,
    bad: Bools,
    recordings: NDArray[np.generic],
    target: float,
    *,
    overkill: float = 0.0,
    confidence: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> Threshold:
    """Choose by `operating_threshold` on validation; promise by the out-of-bag bootstrap (Efron and Tibshirani 1997).

    Each draw chooses the threshold on the recordings drawn and measures it on those not drawn, so the promise holds the
    chance of both the choice and the new recordings. Its upper end is never below what so few recordings can rule out.
    Raises ValueError without defective or without good frames.
    """
    if not bad.any() or bad.all():
        raise ValueError("a threshold needs good and defective frames")
    value = float(operating_threshold(defect, bad, target, overkill)[0])
    weights = resample(recordings, draws, seed)
    chosen = operating_threshold(defect, bad, target, overkill, weights)
    usable = ~np.isnan(chosen)
    tail = (1 - confidence) / 2
    low, high = np.quantile(chosen[usable], [tail, 1 - tail])
    count = len(np.unique(recordings))
    left_out, passed = weights == 0, defect[None, :] < chosen[:, None]

    def promise(hit: Bools, among: Bools, now: float) -> Interval:
        frames = left_out & among
        with np.errstate(invalid="ignore", divide="ignore"):
            figures = (hit & frames).sum(axis=1) / frames.sum(axis=1)
        figures = figures[~np.isnan(figures) & usable]
        if not len(figures):
            return Interval(now, None, None, confidence, count)
        low, high = np.quantile(figures, [tail, 1 - tail])
        # So many recordings without a failure cannot rule out one kind of recording in this share (rule of three).
        holders = len(np.unique(recordings[among]))
        least = 1 - tail ** (1 / holders)
        return Interval(now, float(min(low, now)), float(max(high, now, least)), confidence, count)

    escaping = promise(passed, bad, float(rate(defect < value, bad)[0]))
    rejecting = promise(~passed, ~bad, float(rate(defect >= value, ~bad)[0]))
    return Threshold(value, float(min(low, value)), float(max(high, value)), target, escaping, rejecting)


def review_band(defect: F64, threshold: Threshold, most: float) -> tuple[float, float] | None:
    """Around the threshold, where a person should look: the threshold's own interval, narrowed until at most the share
    `most` of the frames falls in (low ≤ p < high). None where `most` is 0 or the interval is a point.
    """
    low, high = threshold.low, threshold.high
    if most <= 0 or high <= low:
        return None
    for _ in range(60):
        if np.mean((defect >= low) & (defect < high)) <= most:
            return low, high
        low, high = (low + threshold.value) / 2, (high + threshold.value) / 2
    return None


def log_loss(logits: F64, bad: Bools, weights: F64 | None = None) -> float:
    """Mean negative log likelihood (nats) of the margins `logits` (defect minus good)."""
    margin = np.where(bad, logits, -logits)
    return float(np.average(np.logaddexp(0.0, -margin), weights=weights))


def fit_temperature(logits: F64, bad: Bools, low: float = 0.05, high: float = 50.0) -> float:
    """The temperature with the least log loss (Guo et al. 2017), by golden section over its logarithm.

    Targets are Platt's (1999): (n+ + 1)/(n+ + 2) and 1/(n- + 2) instead of 1 and 0, since n frames without an error do
    not prove that there is none; so data that is separated perfectly has a minimum too.
    """
    count = int(bad.sum())
    target = np.where(bad, (count + 1) / (count + 2), 1 / (len(bad) - count + 2))

    def loss(temperature: float) -> float:
        margin = logits / temperature
        return float(np.mean(target * np.logaddexp(0, -margin) + (1 - target) * np.logaddexp(0, margin)))

    ratio = (np.sqrt(5) - 1) / 2
    left, right = np.log(low), np.log(high)
    for _ in range(80):
        a, b = right - ratio * (right - left), left + ratio * (right - left)
        if loss(float(np.exp(a))) <= loss(float(np.exp(b))):
            right = b
        else:
            left = a
    return float(np.exp((left + right) / 2))


def fit_temperature_and_shift(logits: F64, bad: Bools) -> tuple[float, float]:
    """Temperature and shift of (logits + shift) / temperature with the least log loss, by Newton's method.

    Platt's scaling (1999), with his targets, as above: for margins that something has moved as a whole.
    """
    count = int(bad.sum())
    target = np.where(bad, (count + 1) / (count + 2), 1 / (len(bad) - count + 2))
    design = np.stack([logits, np.ones(len(logits))], axis=1)
    weights = np.array([1 / fit_temperature(logits, bad), 0.0])

    def loss(w: F64) -> float:
        margin = design @ w
        return float(np.mean(target * np.logaddexp(0, -margin) + (1 - target) * np.logaddexp(0, margin)))

    for _ in range(50):
        said = 1 / (1 + np.exp(-np.clip(design @ weights, -500, 500)))
        gradient = design.T @ (said - target) / len(said)
        bend = (design * (said * (1 - said))[:, None]).T @ design / len(said) + 1e-9 * np.eye(2)
        step = np.linalg.solve(bend, gradient)
        while loss(weights - step) > loss(weights) and np.abs(step).max() > 1e-12:
            step = step / 2
        weights = weights - step
    slope = max(float(weights[0]), 1 / 50)
    return 1 / slope, float(weights[1]) / slope


@dataclass(frozen=True)
class Reliability:
    """A bin of the reliability plot: `frames` frames said `said` on average, and `was` of them were defective."""

    said: float
    was: float
    frames: int


def reliability(defect: F64, bad: Bools, bins: int = 10) -> list[Reliability]:
    """Bins of equally many frames along the probability; empty for no frames."""
    order = np.argsort(defect, kind="stable")
    pieces = [piece for piece in np.array_split(order, min(bins, len(order)) or 1) if len(piece)]
    return [Reliability(float(defect[p].mean()), float(bad[p].mean()), len(p)) for p in pieces]


def ece(defect: F64, bad: Bools, bins: int = 10) -> float:
    """Expected calibration error, 0…1: mean |said − was| over bins of equally many frames (Nguyen, O'Connor 2015)."""
    found = reliability(defect, bad, bins)
    frames = sum(one.frames for one in found)
    return sum(abs(one.said - one.was) * one.frames for one in found) / frames if frames else float("nan")


def roc(defect: F64, bad: Bools) -> tuple[F64, F64, F64]:
    """Overkill rate, escape rate and threshold along all thresholds, each float [k], thresholds falling."""
    levels = np.concatenate([[np.inf], np.unique(defect)[::-1]])
    over = np.array([np.mean(defect[~bad] >= t) if (~bad).any() else np.nan for t in levels])
    escape = np.array([np.mean(defect[bad] < t) if bad.any() else np.nan for t in levels])
    return over, escape, levels
