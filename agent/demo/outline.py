"""Where the molten metal is: the geometry that trail, pool and defects share.

The geometry is one distance field: `depth` is how far (scene units) a point lies inside the molten outline, negative
outside; `across` runs from -1 at the left toe to 1 at the right one, `dx` is the way from the bead's middle, `aside`
from the straight joint, and `behind` the way back from the pool's front. Edges are frozen into the material: they move
down the picture with the travel and keep their shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agent.demo.fields import F32, Wave
from agent.demo.moment import FUSION, Moment
from agent.demo.recording import Recording
from agent.demo.stage import Stage


@dataclass(frozen=True)
class Patch:
    """The part of a frame that the weld touches; all arrays float32 [rows, columns] unless noted."""

    rows: slice
    columns: slice
    y: F32  # [rows, 1]
    dx: F32
    aside: F32
    across: F32
    depth: F32
    behind: F32  # [rows, 1]
    light: F32
    rough: F32
    fine: F32


def outline(stage: Stage, recording: Recording, moment: Moment) -> Patch:
    """The molten outline of this frame and the fields around it, from a little ahead of the etched zone downwards."""
    bead, seed = recording.bead, recording.seed
    margin = bead.zone + 45
    top = int(np.searchsorted(stage.y, moment.lead - margin))
    rows = slice(top, len(stage.y))
    y = stage.y[rows]
    material = y - np.float32(moment.travel)
    center = _center(recording, moment, y)
    scale = moment.half_width / bead.half_width
    left = moment.half_width + bead.edge_wave * scale * Wave(60, 420, seed, 82)(material)
    right = moment.half_width + bead.edge_wave * scale * Wave(60, 420, seed, 83)(material)
    reach = moment.half_width + margin + 3 * bead.edge_wave
    first, last = np.searchsorted(stage.x, [center.min() - reach, center.max() + reach])
    columns = slice(int(first), int(last))
    dx = stage.x[None, columns] - center[:, None]
    aside = stage.x[None, columns] - (recording.camera.tilt * y + np.float32(moment.joint_at))[:, None]
    shift = round(moment.travel * recording.camera.scale * stage.stretch)
    rough, fine = stage.rough.window(shift, rows, columns), stage.fine.window(shift, rows, columns)
    lean = np.clip(dx / np.float32(2 * moment.half_width) + np.float32(0.5), 0, 1)
    half = left[:, None] + lean * (right - left)[:, None]
    across = dx / half
    arch = bead.arch * moment.half_width
    behind = (y - np.float32(moment.lead))[:, None]
    ahead = np.maximum(0, (arch - behind) / arch)
    depth = (1 - np.sqrt(across * across + ahead * ahead)) * half
    depth += np.float32(moment.roughness * 1.6) * rough
    if moment.kind == FUSION:
        opening = _opening(recording, moment, y)[:, None]
        depth = np.minimum(depth, np.abs(aside) - opening + np.float32(4) * rough)
    return Patch(rows, columns, y[:, None], dx, aside, across, depth, behind, stage.light[rows, columns], rough, fine)


def _center(recording: Recording, moment: Moment, y: F32) -> F32:
    """The bead's centre line: the camera's tilt, and the hand's wander frozen into the solid weld."""
    wander = Wave(90, 500, recording.seed, 81)(y - np.float32(moment.travel))
    return np.asarray(recording.camera.tilt * y + recording.bead.wander * wander, dtype=np.float32)


def _opening(recording: Recording, moment: Moment, y: F32) -> F32:
    """Half the gap between two unfused beads along the weld; it narrows here and there but stays open."""
    wave = Wave(110, 520, recording.seed, 84)(y - np.float32(moment.travel))
    return np.asarray(moment.gap * np.clip(1 + 0.35 * wave, 0.35, 1.8), dtype=np.float32)
