"""The weld itself: joint, cleaned zone, bead trail, pool and toes, painted over the plate in place.

The order is the physics': the plate is etched, the joint runs through it, the bead covers both, a defect comes last.
"""

from __future__ import annotations

import numpy as np

from agent.demo import defects
from agent.demo.fields import F32, Wave, generator, ripples, smoothstep
from agent.demo.moment import BURN, DIRT, FUSION, STARVED, Moment
from agent.demo.outline import Patch, outline
from agent.demo.recording import Recording
from agent.demo.stage import Stage


def paint(image: F32, stage: Stage, recording: Recording, moment: Moment) -> None:
    """Paint joint, zone, trail, pool and defect of this frame into `image` (float32 [height, width], gray levels)."""
    patch = outline(stage, recording, moment)
    view = image[patch.rows, patch.columns]
    _zone(view, patch, recording, moment)
    _joint(image, stage, recording, moment)
    inside = smoothstep(patch.depth / np.float32(1.5 * recording.camera.softness) + np.float32(0.5))
    metal = _trail(patch, stage, recording, moment)
    _pool(metal, patch, recording, moment)
    if moment.kind == DIRT:
        defects.dirt(metal, view, patch, recording, moment)
    view += inside * (metal - view)
    _toes(view, patch, recording, moment)
    if moment.kind == FUSION:
        defects.slit(view, patch, moment)
    if moment.kind == BURN:
        defects.hole(view, patch, recording, moment)


def _joint(image: F32, stage: Stage, recording: Recording, moment: Moment) -> None:
    """Two sheets that reflect a little differently, the dark joint between, on some a bright scribe line beside."""
    plate, bead = recording.plate, recording.bead
    center = np.asarray(recording.camera.tilt * stage.y + moment.joint_at, dtype=np.float32)
    image *= 1 + np.float32(plate.joint_step) * (stage.x[None, :] > center[:, None])
    reach = max(4 * plate.joint_width, 2 * stage.unit)
    blur = np.float32(max(plate.joint_width / 2, recording.camera.softness, stage.unit * 0.6))
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
        # Soot here, bare metal there: the band turns blotchy, and no darker on the whole.
        blotches = smoothstep(patch.rough + np.float32(0.4) * patch.fine + np.float32(0.5)) - np.float32(0.42)
        view *= 1 - np.float32(0.55 * moment.severity) * blotches * inside


def _trail(patch: Patch, stage: Stage, recording: Recording, moment: Moment) -> F32:
    """The solid bead behind the pool: crowned, lit from a side, with crescent ripples."""
    bead, seed = recording.bead, recording.seed
    flat = (patch.dx / np.float32(moment.half_width)) ** 2
    table = ripples(seed, max(bead.ripple_pitch, 3 * stage.unit))
    bend = bead.ripple_bend * moment.half_width
    place = patch.y - np.float32(moment.travel) + np.float32(bend) * flat + 3 * patch.rough
    crests = table[place.astype(np.int32) & 4095] * (np.float32(0.8) + np.float32(1.1) * patch.rough)
    started = smoothstep((patch.behind - np.float32(moment.pool_length * moment.half_width)) / np.float32(60) + 1)
    amount = bead.ripple * (0.7 if moment.kind == STARVED else 1.0)
    shape = bead.level + bead.crown * (0.5 - flat) + bead.side_light * patch.across
    shape += np.float32(amount) * crests * started + np.float32(0.12) * patch.rough + np.float32(0.05) * patch.fine
    if bead.crease:
        fold = patch.dx / np.float32(max(bead.crease_width, stage.unit))
        shape += np.float32(bead.crease) * np.exp(-fold * fold) * started * (1 + patch.rough)
    if moment.kind == STARVED:
        dent = patch.aside / np.float32(max(5.0, stage.unit))
        sunk = np.float32(0.1 + 0.3 * moment.severity) * (1 + patch.rough)
        shape -= sunk * np.exp(-dent * dent) * (np.float32(0.3) + np.float32(0.7) * started)
    return np.asarray(patch.light * shape, dtype=np.float32)


def _pool(metal: F32, patch: Patch, recording: Recording, moment: Moment) -> None:
    """The liquid pool over the front of `metal`: a smooth shaded mirror, bounded by a crescent."""
    bead, long = recording.bead, np.float32(moment.pool_length * moment.half_width)
    end = int(np.searchsorted(patch.behind[:, 0], 1.15 * long))
    metal, light, rough, across = metal[:end], patch.light[:end], patch.rough[:end], patch.across[:end]
    behind = patch.behind[:end]
    along = behind / long
    rng = generator(recording.seed, 86)
    lean, push, spin, turn = (float(v) for v in rng.uniform(-0.35, 0.35, 4))
    wave = np.sin(across * np.float32(3.1 + spin) + np.float32(6 * lean + moment.phase / 3))
    wave *= np.sin(along * np.float32(6.5) + np.float32(5 * turn + moment.phase / 2) + across)
    bright, dark = _mirrors(across, along, rough, wave, (lean, push, spin, turn), recording, moment)
    level = light * (1 + np.float32(0.12) * wave - np.float32(bead.shade) * dark)
    level += np.float32(moment.mirror) * bright * (1 - np.float32(0.5 * bead.shade) * dark)
    glint = ((patch.dx[:end] - np.float32(20 * lean)) / 24) ** 2 + ((behind - np.float32(18)) / 13) ** 2
    level += np.float32(0.6 * moment.mirror) * np.exp(-glint)
    flecks = smoothstep((patch.fine[:end] * 3 + rough * 2.5 - np.float32(2.6 - bead.flecks)) * 3)
    level *= 1 - np.float32(0.55) * flecks
    liquid = smoothstep((1 - along - np.float32(0.3) * across**2 + np.float32(0.05) * rough) * 9)
    metal += liquid * (level - metal)


def _mirrors(
    across: F32,
    along: F32,
    rough: F32,
    wave: F32,
    place: tuple[float, float, float, float],
    recording: Recording,
    moment: Moment,
) -> tuple[F32, F32]:
    """Where the pool reflects the arc, and where the dark cup: two ragged patches that drift, each 0…1."""
    lean, push, spin, turn = place
    drift = [0.12 * Wave(15, 90, recording.seed, 87, n).at(moment.index) for n in range(4)]
    starving = 0.5 * moment.severity if moment.kind == STARVED else 0.0
    size = np.float32(0.62 * recording.bead.mirror_size * (1 - starving))
    arc = (across - np.float32(lean + drift[0])) ** 2
    arc = arc + ((along - np.float32(0.42 + 0.3 * push + drift[1])) * np.float32(1.9)) ** 2
    bright = smoothstep((size * size - arc + np.float32(0.22) * wave + np.float32(0.08) * rough) * 14)
    cup = (across - np.float32(spin + drift[2])) ** 2
    cup = cup + ((along - np.float32(0.4 + turn + drift[3])) * np.float32(1.5)) ** 2
    return bright, smoothstep((np.float32(0.16) - cup - np.float32(0.15) * wave) * 6)


def _toes(view: F32, patch: Patch, recording: Recording, moment: Moment) -> None:
    """The lines along the bead's edge: undercut dark on one side, glinting on the other, fading in and out."""
    bead, seed = recording.bead, recording.seed
    near = patch.depth / np.float32(3.5 + 0.025 * moment.half_width)
    line = np.exp(-near * near) * (1 + np.float32(1.2) * patch.rough)
    material = patch.y - np.float32(moment.travel)
    left = bead.toe_left * np.clip(1 + 0.4 * Wave(80, 500, seed, 88)(material[:, 0]), 0.3, 1.5)
    right = bead.toe_right * np.clip(1 + 0.4 * Wave(80, 500, seed, 89)(material[:, 0]), 0.3, 1.5)
    lean = np.clip(patch.across + np.float32(0.5), 0, 1)
    view *= 1 + (left[:, None] + lean * (right - left)[:, None]) * line
