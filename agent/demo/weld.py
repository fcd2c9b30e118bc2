"""The weld itself: joint, cleaned zone, bead trail, pool and what went wrong, painted over the plate in place.

The geometry is one distance field: `depth` is how far (scene units) a point lies inside the molten outline, negative
outside; `across` runs from -1 at the left toe to 1 at the right one, `behind` is the way back from the pool's front.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agent.demo.fields import F32, Wave, generator, smoothstep
from agent.demo.moment import BURN, DIRT, FUSION, STARVED, Moment
from agent.demo.recording import Recording
from agent.demo.stage import Stage


@dataclass(frozen=True)
class Patch:
    """The part of a frame that the weld touches; all arrays float32 [rows, columns] unless noted."""

    rows: slice
    columns: slice
    y: F32  # [rows, 1]
    dx: F32
    across: F32
    depth: F32
    behind: F32  # [rows, 1]
    light: F32
    rough: F32
    fine: F32


def paint(image: F32, stage: Stage, recording: Recording, moment: Moment) -> None:
    """Paint joint, zone, trail, pool and defect of this frame into `image` (float32 [height, width], gray levels)."""
    _joint(image, stage, recording, moment)
    patch = _patch(stage, recording, moment)
    view = image[patch.rows, patch.columns]
    _zone(view, patch, recording, moment)
    inside = smoothstep(patch.depth / np.float32(1.5 * recording.camera.softness) + np.float32(0.5))
    metal = _trail(patch, stage, recording, moment)
    _pool(metal, patch, recording, moment)
    if moment.kind == DIRT:
        _dirt(metal, view, patch, moment)
    view += inside * (metal - view)
    _toes(view, patch, recording, moment)
    if moment.kind == FUSION:
        _slit(view, patch, moment)
    if moment.kind == BURN:
        _hole(view, patch, recording, moment)


def _center(recording: Recording, moment: Moment, y: F32) -> F32:
    """The bead's centre line: the camera's tilt, and the hand's wander frozen into the solid weld."""
    wander = Wave(90, 500, recording.seed, 81)(y - np.float32(moment.travel))
    return np.asarray(recording.camera.tilt * y + recording.bead.wander * wander, dtype=np.float32)


def _joint(image: F32, stage: Stage, recording: Recording, moment: Moment) -> None:
    """The dark butt joint along the whole plate and, on some plates, a bright scribe line beside it."""
    plate, bead = recording.plate, recording.bead
    center = np.asarray(recording.camera.tilt * stage.y + moment.joint_at, dtype=np.float32)
    reach = max(4 * plate.joint_width, 2 * stage.unit)
    blur = np.float32(max(plate.joint_width / 2, stage.unit * 0.6))
    fill = plate.joint_width / 2 / blur
    _line(image, stage, center, reach, blur, -plate.joint_depth * fill)
    if plate.joint_glint:
        _line(image, stage, center + plate.joint_width, reach, blur, plate.joint_glint * fill)
    if plate.scribe:
        aside = np.asarray(recording.camera.tilt * stage.y + plate.scribe * bead.half_width, dtype=np.float32)
        fill = min(1.0, 1.5 / stage.unit)
        _line(image, stage, aside, 6 * max(1.0, stage.unit), np.float32(max(1.4, stage.unit * 0.6)), 0.3 * fill)


def _line(image: F32, stage: Stage, center: F32, reach: float, blur: np.float32, strength: float) -> None:
    """Scale the light by 1 + strength along a line x = center(y), Gaussian across."""
    first, last = np.searchsorted(stage.x, [center.min() - reach, center.max() + reach])
    if first < last:
        away = (stage.x[None, first:last] - center[:, None]) / blur
        image[:, first:last] *= 1 + np.float32(strength) * np.exp(-away * away)


def _patch(stage: Stage, recording: Recording, moment: Moment) -> Patch:
    bead, seed = recording.bead, recording.seed
    margin = bead.zone + 45
    top = int(np.searchsorted(stage.y, moment.lead - margin))
    rows = slice(top, len(stage.y))
    y = stage.y[rows]
    material = y - np.float32(moment.travel)
    center = _center(recording, moment, y)
    scale = moment.half_width / bead.half_width
    left = moment.half_width + bead.edge_wave * scale * Wave(25, 160, seed, 82)(material)
    right = moment.half_width + bead.edge_wave * scale * Wave(25, 160, seed, 83)(material)
    reach = moment.half_width + margin + 3 * bead.edge_wave
    first, last = np.searchsorted(stage.x, [center.min() - reach, center.max() + reach])
    columns = slice(int(first), int(last))
    dx = stage.x[None, columns] - center[:, None]
    shift = round(moment.travel * recording.camera.scale * stage.stretch)
    rough, fine = stage.rough.window(shift, rows, columns), stage.fine.window(shift, rows, columns)
    half = np.where(dx < 0, left[:, None], right[:, None])
    across = dx / half
    arch = bead.arch * moment.half_width
    behind = (y - np.float32(moment.lead))[:, None]
    ahead = np.maximum(0, (arch - behind) / arch)
    depth = (1 - np.sqrt(across * across + ahead * ahead)) * half
    depth += np.float32(moment.roughness * 1.6) * rough
    if moment.kind == FUSION:
        opening = _opening(recording, moment, y)[:, None]
        depth = np.minimum(depth, np.abs(dx) - opening + np.float32(4) * rough)
    return Patch(rows, columns, y[:, None], dx, across, depth, behind, stage.light[rows, columns], rough, fine)


def _opening(recording: Recording, moment: Moment, y: F32) -> F32:
    """Half the gap between two unfused beads along the weld; it narrows here and there but stays open."""
    wave = Wave(60, 220, recording.seed, 84)(y - np.float32(moment.travel))
    return np.asarray(moment.gap * np.clip(1 + 0.35 * wave, 0.35, 1.8), dtype=np.float32)


def _zone(view: F32, patch: Patch, recording: Recording, moment: Moment) -> None:
    """The cleaned, etched band around the weld, with its ragged border."""
    bead = recording.bead
    edge = patch.depth + np.float32(bead.zone) + np.float32(38) * patch.rough
    inside = smoothstep(edge / np.float32(9))
    etched = patch.light * np.float32(1 + bead.zone_gain) * (1 + np.float32(0.22) * patch.fine)
    view += np.float32(0.75) * inside * (etched - view)
    if moment.kind == DIRT:
        soot = np.float32(0.5 * moment.severity) * smoothstep(patch.rough * 2.2 + np.float32(0.1))
        view *= 1 - soot * inside


def _ripple_table(seed: int, pitch: float) -> F32:
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


def _trail(patch: Patch, stage: Stage, recording: Recording, moment: Moment) -> F32:
    """The solid bead behind the pool: crowned, lit from a side, with crescent ripples."""
    bead, seed = recording.bead, recording.seed
    flat = patch.across * patch.across
    table = _ripple_table(seed, max(bead.ripple_pitch, 3 * stage.unit))
    bend = bead.ripple_bend * moment.half_width
    place = patch.y - np.float32(moment.travel) + np.float32(bend) * flat + 8 * patch.rough
    ripples = table[place.astype(np.int32) & 4095]
    started = smoothstep((patch.behind - np.float32(moment.pool_length * moment.half_width)) / np.float32(60) + 1)
    amount = bead.ripple * (0.7 if moment.kind == STARVED else 1.0)
    shape = bead.level + bead.crown * (0.5 - flat) + bead.side_light * patch.across
    shape += np.float32(amount) * ripples * started + np.float32(0.12) * patch.rough + np.float32(0.05) * patch.fine
    if moment.kind == STARVED:
        dent = patch.dx / np.float32(max(5.0, stage.unit))
        shape -= np.float32(0.2 + 0.4 * moment.severity) * np.exp(-dent * dent) * started
    return np.asarray(patch.light * shape, dtype=np.float32)


def _pool(metal: F32, patch: Patch, recording: Recording, moment: Moment) -> None:
    """The liquid pool: a smooth shaded mirror with the arc's reflection and the cup's, bounded by a crescent."""
    bead, seed = recording.bead, recording.seed
    long = np.float32(moment.pool_length * moment.half_width)
    along = patch.behind / long
    liquid = smoothstep((1 - along - np.float32(0.3) * patch.across**2 + np.float32(0.05) * patch.rough) * 9)
    rng = generator(seed, 86)
    ax, ay, bx, by = (float(v) for v in rng.uniform(-0.35, 0.35, 4))
    drift = [0.12 * Wave(15, 90, seed, 87, n).at(moment.index) for n in range(4)]
    wave = np.sin(patch.across * np.float32(3.1 + bx) + np.float32(6 * ax + moment.phase / 3)) * np.sin(
        along * np.float32(6.5) + np.float32(5 * by + moment.phase / 2) + patch.across
    )
    size = np.float32(0.62 * bead.mirror_size)
    bright = (patch.across - np.float32(ax + drift[0])) ** 2 + ((along - np.float32(0.42 + 0.3 * ay + drift[1])) * 1.9) ** 2
    bright = smoothstep((size * size - bright + np.float32(0.22) * wave + np.float32(0.08) * patch.rough) * 14)
    dark = (patch.across - np.float32(bx + drift[2])) ** 2 + ((along - np.float32(0.4 + by + drift[3])) * 1.5) ** 2
    dark = smoothstep((np.float32(0.16) - dark - np.float32(0.15) * wave) * 6)
    level = patch.light * (1 + np.float32(0.12) * wave) - np.float32(bead.shade) * dark * patch.light
    level += np.float32(moment.mirror) * bright * (1 - np.float32(0.5 * bead.shade) * dark)
    level += np.float32(0.6 * moment.mirror) * np.exp(
        -(((patch.dx - np.float32(20 * ax)) / 24) ** 2) - ((patch.behind - np.float32(18)) / 13) ** 2
    )
    flecks = smoothstep((patch.fine * 3 + patch.rough * 2.5 - np.float32(2.6 - bead.flecks)) * 3)
    level *= 1 - np.float32(0.55) * flecks
    metal += liquid * (level - metal)


def _toes(view: F32, patch: Patch, recording: Recording, moment: Moment) -> None:
    """The lines along the bead's edge: undercut dark on one side, glinting on the other."""
    bead = recording.bead
    near = patch.depth / np.float32(5 + 0.03 * moment.half_width)
    line = np.exp(-near * near)
    weight = np.where(patch.dx < 0, np.float32(bead.toe_left), np.float32(bead.toe_right))
    view *= 1 + weight * line


def _dirt(metal: F32, view: F32, patch: Patch, moment: Moment) -> None:
    """Oxide rafts on the pool, pits in the trail, and grains scattered over the zone."""
    severity = moment.severity
    rafts = smoothstep((patch.rough * 3 + patch.fine - np.float32(1.5 - 1.3 * severity)) * 2.5)
    metal *= 1 - np.float32(0.35 + 0.4 * severity) * rafts
    pits = smoothstep((patch.fine * 3 - np.float32(2.2 - 0.8 * severity)) * 3)
    metal *= 1 - np.float32(0.6 * severity) * pits
    view *= 1 - np.float32(0.45 * severity) * pits


def _slit(view: F32, patch: Patch, moment: Moment) -> None:
    """The open joint between two beads that did not meet."""
    slit = patch.dx / np.float32(4 + 0.3 * moment.gap)
    gone = smoothstep(patch.behind / np.float32(25))
    view *= 1 - np.float32(0.35 + 0.5 * moment.severity) * np.exp(-slit * slit) * gone


def _hole(view: F32, patch: Patch, recording: Recording, moment: Moment) -> None:
    """Burn-through: a dark ragged hole with a glowing rim, and the sagging, folded skirt behind it."""
    severity, width, seed = moment.severity, moment.half_width, recording.seed
    rng = generator(seed, 91)
    radius_x = width * (0.22 + 0.6 * severity)
    radius_y = radius_x * float(rng.uniform(0.8, 1.4))
    x0 = width * 0.25 * float(rng.uniform(-1, 1)) * (1.2 - severity)
    y0 = radius_y * float(rng.uniform(0.9, 1.3)) + width * float(rng.uniform(0.05, 0.6)) * (1.1 - severity)
    u, v = (patch.dx - np.float32(x0)) / np.float32(radius_x), (patch.behind - np.float32(y0)) / np.float32(radius_y)
    angle = np.arctan2(v, u)
    ragged = np.zeros_like(angle)
    for lobes in (2, 3, 5, 9):
        ragged += np.float32(0.16 / lobes**0.5) * np.sin(lobes * angle + np.float32(rng.uniform(0, 6.3) + moment.phase / lobes))
    away = np.sqrt(u * u + v * v) + ragged * np.float32(0.7) + np.float32(0.12) * patch.rough
    folds = np.exp(-((np.maximum(away - 1, 0) / np.float32(0.9)) ** 2)) * smoothstep(v + np.float32(0.2))
    table = _ripple_table(seed, max(16.0, 0.2 * radius_y))
    crease = table[((away - 1) * np.float32(radius_y)).astype(np.int32) & 4095]
    view *= 1 - np.float32(0.55) * folds * (np.float32(0.45) - crease * np.float32(0.5)) * np.float32(severity)
    rim = np.exp(-(((away - np.float32(1.12)) / np.float32(0.13)) ** 2)) * (np.float32(0.75) - np.float32(0.35) * v)
    view += rim * np.float32(45 + 60 * severity) * (1 + np.float32(0.5) * patch.rough)
    hole = smoothstep((1 - away) * np.float32(radius_x / 6) + np.float32(0.5))
    depth = patch.light * (np.float32(0.42) + np.float32(0.22) * np.clip(-v, -0.6, 1))
    view += hole * (depth - view)
