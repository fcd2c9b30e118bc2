"""Procedural weld frames: what the process camera of a TIG station sees, made up from a seed.

`render(recording(seed), kind, index)` gives one frame. The same arguments give the same bytes on every run; frames of
one recording drift slowly with the index; recordings differ in torch, light, exposure, speed, plate, joint and noise.
The pictures are synthetic: they serve the demo and the tests of the chain, and say nothing of real welds.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from agent.demo import stage, weld
from agent.demo.fields import F32, generator
from agent.demo.moment import KINDS, Moment, moment
from agent.demo.recording import SIZE, Recording, recording

__all__ = ["KINDS", "SIZE", "Recording", "recording", "render"]

# A recording's still layers take some 20 MB at full size: a camera shows one recording, or two in turn.
_stage = lru_cache(maxsize=2)(stage.build)


def render(recording: Recording, kind: int, index: int, size: tuple[int, int] = SIZE) -> npt.NDArray[np.uint8]:
    """Frame `index` (from 0) of a recording as uint8 gray [height, width], `size` being (width, height) in pixels.

    `kind` is an index into `KINDS`, 0 the good weld. A smaller size shows the same scene with less work.
    Raises ValueError for a kind outside `KINDS` or a size below 16 pixels.
    """
    if min(size) < 16:
        raise ValueError(f"size {size[0]}x{size[1]}: at least 16 pixels each way")
    now = moment(recording, kind, index)
    still = _stage(recording, size)
    shift = round(now.travel * recording.camera.scale * still.stretch)
    image = still.plate.window(shift, slice(0, size[1]), slice(0, size[0]))
    image *= still.texture_gain
    image += still.light
    weld.paint(image, still, recording, now)
    image += still.halo * np.float32(now.flicker)
    top = image[: still.matte.shape[0]]
    top += still.matte * (still.torch * np.float32(now.flicker) - top)
    return _expose(image, recording, now)


def _expose(image: F32, recording: Recording, now: Moment) -> npt.NDArray[np.uint8]:
    """Exposure, the sensor's row pattern and noise, highlights compressed, gamma, 8 bits; flipped if mirrored."""
    camera = recording.camera
    rows = np.full((image.shape[0], 1), camera.exposure * now.brightness, dtype=np.float32)
    if image.shape[0] >= SIZE[1]:
        rows[::2] *= 1 + camera.row_pattern
    image *= rows
    image += _noise(recording, now, image.shape)
    levels = np.clip(image * 8, 0, 4095).astype(np.uint16)
    gray = _curve(camera.gamma)[levels]
    return np.ascontiguousarray(gray[:, ::-1]) if camera.mirrored else gray


def _noise(recording: Recording, now: Moment, shape: tuple[int, ...]) -> F32:
    """Sensor noise in gray levels: white when it reaches the sensor, so it is not resized with the scene."""
    rng = generator(recording.seed, 95, now.kind, now.index)
    block = rng.standard_normal(1 << 16, dtype=np.float32) * np.float32(recording.camera.noise)
    count = shape[0] * shape[1]
    starts = rng.integers(0, 1 << 15, count // (1 << 15) + 1)
    strips = [block[start : start + (1 << 15)] for start in starts]
    return np.concatenate(strips)[:count].reshape(shape)


@lru_cache(maxsize=8)
def _curve(gamma: float) -> npt.NDArray[np.uint8]:
    """4096 entries in eighths of a gray level: knee above 170, then gamma, with 170 and 255 kept."""
    light = np.arange(4096) / 8
    kneed = np.where(light > 170, 170 + 85 * (1 - np.exp(-(light - 170) / 85)), light)
    return np.asarray(np.rint(255 * (kneed / 255) ** gamma), dtype=np.uint8)
