"""Which recordings go where, and which of their frames are taken.

Invariants
- By recording, no recording lies on two sides. Only `by_frame`, which is there to show what leaking is worth, breaks
  it.
- The same counts and seed give the same split.
- What is wanted and cannot be had is not filled up with something else; where there is too little for the quotas, all
  sides go short alike (`within_reach`), so that training is not starved by the two that measure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

SPLITS = ("train", "val", "test")
_SHARES = np.array([0.6, 0.2, 0.2])  # where all frames are taken
_STARTS = 8

Ints = NDArray[np.int64]
F64 = NDArray[np.float64]


def wanted_frames(totals: Ints, quotas: Sequence[int | None], good: Sequence[int]) -> F64:
    """Frames wanted of each class on each side, float [3, k]: good classes share a quota, defects share one equally.

    A quota of None takes all there are; `totals` [k] then says how many a fair share would be.
    """
    is_good = np.isin(np.arange(len(totals)), good)
    here = totals > 0
    wanted = np.zeros((3, len(totals)))
    for side, quota in enumerate(quotas):
        for group in (is_good & here, ~is_good & here):
            if group.any():
                wanted[side, group] = totals[group] * _SHARES[side] if quota is None else quota / group.sum()
    return wanted


def within_reach(wanted: F64, totals: Ints) -> F64:
    """`wanted` [3, k], with every class that has fewer frames (`totals` [k]) than the quotas want in all shared out as
    60/20/20 over the sides that want any; what one side's quota does not need goes to the others.
    """
    shares = np.where(wanted > 0, _SHARES[:, None], 0)
    fair = np.minimum(shares / np.maximum(shares.sum(axis=0), 1e-9) * totals, wanted)
    open_ = wanted - fair
    rest = (totals - fair.sum(axis=0)) * open_ / np.maximum(open_.sum(axis=0), 1e-9)
    return np.asarray(np.where(wanted.sum(axis=0) > totals, fair + rest, wanted))


def by_recording(counts: Ints, wanted: F64, fixed: Ints, rng: np.random.Generator, good: Sequence[int] = (0,)) -> Ints:
    """Give each recording a side: int [r] of 0 train, 1 val, 2 test.

    `counts` [r, k] are frames of each class, `wanted` [3, k]; `fixed` [r] holds a side that is given, or -1. Greedy
    from several random orders, then single moves while they help; the cost counts what is missing of each class on
    each side, few recordings of a class on a side, and a lopsided rest.
    """
    is_good = np.isin(np.arange(counts.shape[1]), good)
    best = _search(wanted, fixed, rng, lambda sides: _cost(counts, wanted, sides))
    if _one_sided(counts, wanted, best, is_good):
        # With very few recordings the search above may leave a side without a label, which no side can do without.
        best = _search(
            wanted, fixed, rng,
            lambda sides: _cost(counts, wanted, sides) + 1000 * _one_sided(counts, wanted, sides, is_good),
        )  # fmt: skip
    return best


def _search(wanted: F64, fixed: Ints, rng: np.random.Generator, cost: Callable[[Ints], float]) -> Ints:
    allowed = [side for side in range(3) if wanted[side].any()] or [0]
    free = np.flatnonzero(fixed < 0)
    best: tuple[float, Ints] | None = None
    for _ in range(_STARTS):
        sides = fixed.copy()
        for index in rng.permutation(free):
            sides[index] = _cheapest(sides, index, allowed, cost)
        for _ in range(20):
            moved = False
            for index in rng.permutation(free):
                side = _cheapest(sides, index, allowed, cost)
                moved, sides[index] = moved or side != sides[index], side
            if not moved:
                break
        found = cost(sides)
        if best is None or found < best[0]:
            best = found, sides
    assert best is not None
    return best[1]


def _cheapest(sides: Ints, index: np.int64, allowed: Sequence[int], cost: Callable[[Ints], float]) -> int:
    trial = sides.copy()
    costs = []
    for side in allowed:
        trial[index] = side
        costs.append(cost(trial))
    return allowed[int(np.argmin(costs))]


def _one_sided(counts: Ints, wanted: F64, sides: Ints, is_good: NDArray[np.bool_]) -> int:
    """How many labels are missing on the sides, of those that are wanted there."""
    have = np.stack([counts[sides == side].sum(axis=0) for side in range(3)])
    return sum(
        bool(wanted[side, label].any()) and not have[side, label].any()
        for side in range(3)
        for label in (is_good, ~is_good)
    )


def _cost(counts: Ints, wanted: F64, sides: Ints) -> float:
    have = np.stack([counts[sides == side].sum(axis=0) for side in range(3)])
    recordings = np.stack([(counts[sides == side] > 0).sum(axis=0) for side in range(3)])
    used = wanted > 0
    missing = np.clip(1 - have[used] / wanted[used], 0, None)
    # An interval over recordings needs several of them: up to four of a class on a side are worth something.
    few = (np.clip(4 - recordings[used], 0, None) / 4) ** 2
    total = np.maximum(have.sum(axis=0), 1)
    share = wanted / np.maximum(wanted.sum(axis=0), 1e-9)
    lopsided = np.abs(have / total - share)
    return float((missing + missing**2).sum() * 10 + few.sum() * 2 + lopsided.sum())


def by_frame(kinds: Ints, wanted: F64, rng: np.random.Generator) -> Ints:
    """The usual leaky split, for comparison: each frame gets a side by chance, int [n]."""
    sides = np.zeros(len(kinds), dtype=np.int64)
    for kind in np.unique(kinds):
        frames = rng.permutation(np.flatnonzero(kinds == kind))
        share = np.cumsum(wanted[:, kind]) / wanted[:, kind].sum()
        ends = np.round(share * len(frames)).astype(int)
        sides[frames[ends[0] : ends[1]]] = 1
        sides[frames[ends[1] :]] = 2
    return sides


def pick(recordings: Sequence[str], quota: int) -> list[int]:
    """Positions of at most `quota` frames of one class on one side: equally many of each recording as far as it has
    them, evenly spread along its time. Frames come in the order of their names.
    """
    places: Mapping[str, list[int]] = defaultdict(list)
    for position, recording in enumerate(recordings):
        places[recording].append(position)
    left, chosen = quota, []
    for number, frames in enumerate(sorted(places.values(), key=len)):
        take = min(len(frames), -(-left // (len(places) - number)))
        at = np.floor(np.linspace(0, len(frames) - 1, take) + 0.5) if take > 1 else np.full(take, len(frames) // 2)
        chosen += [frames[int(position)] for position in at]
        left -= take
    return sorted(chosen)
