"""The same picture on both sides of a split would be an exam question seen before: find it, exact or nearly so.

Exact: the same file, or the same prepared gray levels. Near: thumbnails (32×32, brightness and contrast taken out)
correlate at or above a limit. Measured on the real frames that come with the project's field data: neighbours of one
recording mostly correlate at 0.985 to 0.998, frames of different recordings at 0.992 at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
_BLOCK = 2048


@dataclass(frozen=True)
class Duplicate:
    """A frame that was left out because of another."""

    name: str
    of: str
    why: str


def exact(names: Sequence[str], kinds: Sequence[int], pixels: Sequence[str]) -> list[Duplicate]:
    """Frames that show exactly what an earlier one shows. Where the two carry different classes, nobody knows which
    label is right, and both are left out.
    """
    first: dict[str, int] = {}
    clash: set[str] = set()
    found: list[Duplicate] = []
    for index, digest in enumerate(pixels):
        earlier = first.setdefault(digest, index)
        if earlier == index:
            continue
        if kinds[earlier] == kinds[index]:
            found.append(Duplicate(names[index], names[earlier], "the same picture"))
            continue
        found.append(Duplicate(names[index], names[earlier], "the same picture with another class"))
        if digest not in clash:
            clash.add(digest)
            found.append(Duplicate(names[earlier], names[index], "the same picture with another class"))
    return found


def standardise(thumbs: NDArray[np.uint8]) -> F32:
    """Thumbnails uint8 [n, d] to float32 [n, d] of mean 0 and length 1 (all zero for an even surface)."""
    values = thumbs.astype(np.float32)
    values -= values.mean(axis=1, keepdims=True)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.maximum(length, 1e-6), dtype=np.float32)


def nearest(these: F32, those: F32) -> tuple[NDArray[np.intp], F32]:
    """For each of `these` [n, d] the most alike of `those` [m, d], and its correlation; memory stays below 16 MB a
    block.

    With no `those` the index is -1 and the correlation -1.
    """
    if not len(those):
        return np.full(len(these), -1), np.full(len(these), -1, dtype=np.float32)
    index, best = np.zeros(len(these), dtype=np.intp), np.full(len(these), -2, dtype=np.float32)
    for row in range(0, len(these), _BLOCK):
        block = these[row : row + _BLOCK]
        for column in range(0, len(those), _BLOCK):
            alike = block @ those[column : column + _BLOCK].T
            at = alike.argmax(axis=1)
            value = alike[np.arange(len(block)), at]
            better = value > best[row : row + _BLOCK]
            index[row : row + _BLOCK][better] = at[better] + column
            best[row : row + _BLOCK][better] = value[better]
    return index, best


def near(names: Sequence[str], splits: Sequence[str], thumbs: NDArray[np.uint8], limit: float) -> list[Duplicate]:
    """Frames of train that nearly repeat one of val or test, and frames of val that nearly repeat one of test."""
    values, split = standardise(thumbs), np.asarray(splits)
    found: list[Duplicate] = []
    for side, others in (("train", ("val", "test")), ("val", ("test",))):
        mine, theirs = np.flatnonzero(split == side), np.flatnonzero(np.isin(split, others))
        at, alike = nearest(values[mine], values[theirs])
        for position in np.flatnonzero(alike >= limit):
            other = names[theirs[at[position]]]
            why = f"nearly the same picture on the other side of the split (correlation {alike[position]:.4f})"
            found.append(Duplicate(names[mine[position]], other, why))
    return found
