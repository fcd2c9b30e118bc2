"""Random fields the scene is woven from: seeded, smooth, and stated in reference pixels.

Invariants: every field follows from its integer tags alone (numpy Generator over a SeedSequence), never from call
order; textures are made at the reference resolution and reduced, so a smaller picture shows the same scene.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

F32 = npt.NDArray[np.float32]


def generator(*tags: int) -> np.random.Generator:
    """A generator that depends on nothing but the non-negative integers given."""
    return np.random.default_rng(np.random.SeedSequence(tags))


class Wave:
    """A smooth random function of one variable: a few sines of wavelengths in `[shortest, longest]`, RMS 1.

    Endless and without a table, so it can follow a weld of any length. Accepts a number or an array of any shape.
    """

    def __init__(self, shortest: float, longest: float, *tags: int) -> None:
        rng = generator(*tags)
        count = 5
        lengths = np.exp(rng.uniform(np.log(shortest), np.log(longest), count))
        amplitudes = np.sqrt(lengths)
        self._frequencies = (2 * np.pi / lengths).astype(np.float32)
        self._phases = rng.uniform(0, 2 * np.pi, count).astype(np.float32)
        self._amplitudes = (amplitudes * np.sqrt(2 / np.sum(amplitudes**2))).astype(np.float32)

    def __call__(self, t: F32) -> F32:
        """The wave at every `t`."""
        angles = np.multiply.outer(np.asarray(t, dtype=np.float32), self._frequencies) + self._phases
        with np.errstate(invalid="ignore"):  # BLAS may leave that flag behind though all it was given is finite
            return np.asarray(np.sin(angles) @ self._amplitudes, dtype=np.float32)

    def at(self, t: float) -> float:
        """The value at one point, as a Python number."""
        return float(self(np.asarray([t], dtype=np.float32))[0])


def smoothstep(t: F32) -> F32:
    """3t² - 2t³ on t clipped to [0, 1]."""
    clipped = np.clip(t, 0, 1)
    bent: F32 = clipped * np.float32(-2)
    bent += 3
    bent *= clipped
    bent *= clipped
    return bent


def resized(field: F32, size: tuple[int, int]) -> F32:
    """`field` [h, w] at `size` (width, height), antialiased when it shrinks."""
    if (field.shape[1], field.shape[0]) == size:
        return field
    picture = Image.fromarray(np.ascontiguousarray(field, dtype=np.float32))
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR), dtype=np.float32)


def cloud(size: tuple[int, int], cell: tuple[float, float], *tags: int) -> F32:
    """Gaussian noise [height, width] about 1 strong, smooth over `cell` (x, y) pixels; its bottom meets its top."""
    width, height = size
    columns, rows = max(2, round(width / cell[0])), max(2, round(height / cell[1]))
    coarse = generator(*tags).standard_normal((rows, columns)).astype(np.float32)
    padded = np.concatenate([coarse[-2:], coarse, coarse[:2]])
    scaled = Image.fromarray(padded).resize((width, height), Image.Resampling.BICUBIC, box=(0, 2, columns, rows + 2))
    return np.asarray(np.asarray(scaled) * np.float32(1.5), dtype=np.float32)


@lru_cache(maxsize=16)
def ripples(seed: int, pitch: float) -> F32:
    """4096 scene units of solidification ripples: irregular crests, steep at the back."""
    rng = generator(seed, 85)
    crests = np.cumsum(rng.gamma(5.0, pitch / 5.0, int(6000 / pitch) + 8))
    number = np.searchsorted(crests, np.arange(4096))
    start = np.concatenate([[0.0], crests])[number]
    part = (np.arange(4096) - start) / np.maximum(crests[number] - start, 1)
    heights = rng.uniform(0.3, 1.4, len(crests) + 1)[number]
    table = heights * (np.cos(2 * np.pi * np.clip(part, 0, 1) ** 0.7))
    smooth = np.convolve(np.concatenate([table[-4:], table, table[:4]]), np.ones(5) / 5, "same")[4:-4]
    return np.asarray(smooth, dtype=np.float32)


class Strip:
    """A texture that is endless downwards: a periodic tile of int8, read through a sliding window.

    One byte a pixel keeps several recordings in memory on a small industrial PC. Values are in [-1, 1].
    """

    def __init__(self, tile: F32) -> None:
        self._tile = np.clip(np.rint(tile * 127), -127, 127).astype(np.int8)

    def window(self, offset: int, rows: slice, columns: slice) -> F32:
        """float32 [rows, columns] of the strip shifted down by `offset` pixels."""
        period = self._tile.shape[0]
        height = rows.stop - rows.start
        start = (rows.start - offset) % period
        view = self._tile[start : start + height, columns]
        if view.shape[0] < height:
            view = np.concatenate([view, self._tile[: height - view.shape[0], columns]])
        levels: F32 = np.multiply(view, np.float32(1 / 127), dtype=np.float32)
        return levels
