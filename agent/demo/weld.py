"""The weld itself: joint, cleaned zone, bead trail, pool and what went wrong, painted over the plate in place.

The geometry is one distance field: `depth` is how far (scene units) a point lies inside the molten outline, negative
outside; `across` runs from -1 at the left toe to 1 at the right one, `dx` is the way from the bead's middle, `aside`
from the straight joint, and `behind` the way back from the pool's front.
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
    aside: F32
    across: F32
    depth: F32
    behind: F32  # [rows, 1]
    light: F32
    rough: F32
    fine: F32


def paint(image: F32, stage: Stage, recording: Recording, moment: Moment) -> None:
    """Paint joint, zone, trail, pool and defect of this frame into `image` (float32 [height, width], gray levels)."""
    patch = _patch(stage, recording, moment)
    view = image[patch.rows, patch.columns]
    _zone(view, patch, recording, moment)
    _joint(image, stage, recording, moment)
    inside = smoothstep(patch.depth / np.float32(1.5 * recording.camera.softness) + np.float32(0.5))
    metal = _trail(patch, stage, recording, moment)
    _pool(metal, patch, recording, moment)
    if moment.kind == DIRT:
        _dirt(metal, view, patch, recording, moment)
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
    """Two sheets that reflect a little differently, the dark joint between, on some a bright scribe line beside."""
    plate, bead = recording.plate, recording.bead
    center = np.asarray(recording.camera.tilt * stage.y + moment.joint_at, dtype=np.float32)
    image *= 1 + np.float32(plate.joint_step) * (stage.x[None, :] > center[:, None])
    reach = max(4 * plate.joint_width, 2 * stage.unit)
    blur = np.float32(max(plate.joint_width / 2, stage.unit * 0.6))
    fill = plate.joint_width / 2 / blur
    _line(image, stage, center, reach, blur, -plate.joint_depth * fill)
    if plate.joint_glint:
        _line(image, stage, center + plate.joint_width, reach, blur, plate.joint_glint * fill)
    if plate.scribe:
        aside = np.asarray(recording.camera.tilt * stage.y + plate.scribe * bead.half_width, dtype=np.float32)
        fill = min(1.0, 1.5 / stage.unit)
        _line(image, stage, aside, 6 * max(1.0, stage.unit), np.float32(max(1.4, stage.unit * 0.6)), 0.22 * fill)


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


def _opening(recording: Recording, moment: Moment, y: F32) -> F32:
    """Half the gap between two unfused beads along the weld; it narrows here and there but stays open."""
    wave = Wave(110, 520, recording.seed, 84)(y - np.float32(moment.travel))
    return np.asarray(moment.gap * np.clip(1 + 0.35 * wave, 0.35, 1.8), dtype=np.float32)


def _zone(view: F32, patch: Patch, recording: Recording, moment: Moment) -> None:
    """The cleaned, etched band around the weld, with its ragged border."""
    bead = recording.bead
    edge = (
        patch.depth
        + np.float32(bead.zone)
        + np.float32(bead.zone_ragged) * (patch.rough + np.float32(0.6) * patch.fine)
    )
    inside = smoothstep(edge / np.float32(bead.zone_soft) + np.float32(0.5))
    fading = np.exp(np.minimum(patch.depth, 0) / np.float32(2.5 * bead.zone))
    etched = patch.light * (1 + np.float32(bead.zone_gain) * fading + np.float32(bead.zone_grain) * patch.fine)
    view += np.float32(0.8) * inside * (etched - view)
    if moment.kind == DIRT:
        soot = np.float32(0.5 * moment.severity) * smoothstep(
            patch.rough + np.float32(0.5) * patch.fine + np.float32(0.3)
        )
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
    flat = (patch.dx / np.float32(moment.half_width)) ** 2
    table = _ripple_table(seed, max(bead.ripple_pitch, 3 * stage.unit))
    bend = bead.ripple_bend * moment.half_width
    place = patch.y - np.float32(moment.travel) + np.float32(bend) * flat + 3 * patch.rough
    ripples = table[place.astype(np.int32) & 4095] * (np.float32(0.8) + np.float32(1.1) * patch.rough)
    started = smoothstep((patch.behind - np.float32(moment.pool_length * moment.half_width)) / np.float32(60) + 1)
    amount = bead.ripple * (0.7 if moment.kind == STARVED else 1.0)
    shape = bead.level + bead.crown * (0.5 - flat) + bead.side_light * patch.across
    shape += np.float32(amount) * ripples * started + np.float32(0.12) * patch.rough + np.float32(0.05) * patch.fine
    if bead.crease:
        fold = patch.dx / np.float32(max(bead.crease_width, stage.unit))
        shape += np.float32(bead.crease) * np.exp(-fold * fold) * started * (1 + patch.rough)
    if moment.kind == STARVED:
        dent = patch.aside / np.float32(max(5.0, stage.unit))
        sunk = np.float32(0.08 + 0.3 * moment.severity) * (1 + patch.rough)
        shape -= sunk * np.exp(-dent * dent) * (np.float32(0.3) + np.float32(0.7) * started)
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
    bright = (patch.across - np.float32(ax + drift[0])) ** 2
    bright = bright + ((along - np.float32(0.42 + 0.3 * ay + drift[1])) * np.float32(1.9)) ** 2
    bright = smoothstep((size * size - bright + np.float32(0.22) * wave + np.float32(0.08) * patch.rough) * 14)
    dark = (patch.across - np.float32(bx + drift[2])) ** 2
    dark = dark + ((along - np.float32(0.4 + by + drift[3])) * np.float32(1.5)) ** 2
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
    """The lines along the bead's edge: undercut dark on one side, glinting on the other, fading in and out."""
    bead, seed = recording.bead, recording.seed
    near = patch.depth / np.float32(3.5 + 0.025 * moment.half_width)
    line = np.exp(-near * near) * (1 + np.float32(1.2) * patch.rough)
    material = patch.y - np.float32(moment.travel)
    left = bead.toe_left * np.clip(1 + 0.6 * Wave(80, 500, seed, 88)(material[:, 0]), 0.1, 2)
    right = bead.toe_right * np.clip(1 + 0.6 * Wave(80, 500, seed, 89)(material[:, 0]), 0.1, 2)
    lean = np.clip(patch.across + np.float32(0.5), 0, 1)
    view *= 1 + (left[:, None] + lean * (right - left)[:, None]) * line


def _dirt(metal: F32, view: F32, patch: Patch, recording: Recording, moment: Moment) -> None:
    """Oxide rafts gathered somewhere on the pool, pits left in the trail, and grains scattered over the zone."""
    severity, width, seed = moment.severity, np.float32(moment.half_width), recording.seed
    rng = generator(seed, 92)
    x0 = float(rng.uniform(-0.5, 0.5)) + 0.15 * Wave(20, 120, seed, 93).at(moment.index)
    y0 = float(rng.uniform(0.4, 1.6)) + 0.2 * Wave(20, 120, seed, 94).at(moment.index)
    spread = float(rng.uniform(0.35, 0.8)) * (0.7 + 0.5 * severity)
    away = (patch.across - np.float32(x0)) ** 2 + (patch.behind / width - np.float32(y0)) ** 2
    cluster = np.exp(-away / np.float32(spread * spread))
    grain = patch.rough * np.float32(2.6) + patch.fine * np.float32(1.4)
    rafts = smoothstep((grain + np.float32(1.1 + 1.4 * severity) * cluster - np.float32(1.55 - 0.5 * severity)) * 3)
    metal *= 1 - np.float32(0.3 + 0.4 * severity) * rafts
    pits = smoothstep((patch.fine * 3 + cluster - np.float32(2.7 - 0.7 * severity)) * 3)
    metal *= 1 - np.float32(0.6 * severity) * pits
    view *= 1 - np.float32(0.5 * severity) * pits


def _slit(view: F32, patch: Patch, moment: Moment) -> None:
    """The open joint between two beads that did not meet."""
    slit = (patch.aside + 7 * patch.rough) / np.float32(3 + 0.22 * moment.gap)
    gone = smoothstep(patch.behind / np.float32(25)) * (np.float32(0.8) + patch.rough)
    view *= 1 - np.float32(0.15 + 0.45 * moment.severity) * np.exp(-slit * slit) * gone


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
    for lobes in (2, 3, 5, 8):
        turn = np.float32(rng.uniform(0, 6.3) + moment.phase / lobes)
        ragged += np.float32(0.22 / lobes) * np.sin(lobes * angle + turn)
    away = np.sqrt(u * u + v * v) + ragged + np.float32(0.06) * patch.rough
    folds = np.exp(-((np.maximum(away - 1, 0) / np.float32(0.9)) ** 2)) * smoothstep(v + np.float32(0.2))
    table = _ripple_table(seed, max(16.0, 0.2 * radius_y))
    crease = table[((away - 1) * np.float32(radius_y)).astype(np.int32) & 4095]
    view *= 1 - np.float32(0.7) * folds * (np.float32(0.6) - crease * np.float32(0.5)) * np.float32(severity)
    turn = np.float32(rng.uniform(0, 6.3))
    uneven = (
        np.float32(0.75) - np.float32(0.25) * v + np.float32(0.35) * np.sin(angle + turn) * np.sin(3 * angle + 2 * turn)
    )
    rim = np.exp(-(((away - np.float32(1.12)) / (np.float32(0.1) + np.float32(0.04) * uneven)) ** 2)) * uneven
    view += rim * np.float32(35 + 60 * severity) * (1 + np.float32(0.8) * patch.rough)
    hole = smoothstep((1 - away) * np.float32(radius_x / 6) + np.float32(0.5))
    depth = patch.light * (np.float32(0.42) + np.float32(0.22) * np.clip(-v, -0.6, 1))
    view += hole * (depth - view)
