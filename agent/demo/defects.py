"""What goes wrong in a weld, painted over the sound one in place; the patch and its terms are those of `outline`.

Misalignment and lack of penetration need no paint of their own: they are in the outline and the trail.
"""

from __future__ import annotations

import numpy as np

from agent.demo.fields import F32, Wave, generator, ripples, smoothstep
from agent.demo.moment import Moment
from agent.demo.outline import Patch
from agent.demo.recording import Recording


def dirt(metal: F32, view: F32, patch: Patch, recording: Recording, moment: Moment) -> None:
    """Oxide rafts gathered somewhere on the pool, pits left in the trail, and grains scattered over the zone."""
    severity, width, seed = moment.severity, np.float32(moment.half_width), recording.seed
    rng = generator(seed, 92)
    x0 = float(rng.uniform(-0.5, 0.5)) + 0.15 * Wave(20, 120, seed, 93).at(moment.index)
    y0 = float(rng.uniform(0.4, 1.6)) + 0.2 * Wave(20, 120, seed, 94).at(moment.index)
    spread = float(rng.uniform(0.35, 0.8)) * (0.7 + 0.5 * severity)
    away = (patch.across - np.float32(x0)) ** 2 + (patch.behind / width - np.float32(y0)) ** 2
    cluster = np.exp(-away / np.float32(spread * spread))
    grain = patch.rough * np.float32(2.6) + patch.fine * np.float32(1.4)
    rafts = smoothstep((grain + np.float32(1.4 + 1.2 * severity) * cluster - np.float32(1.55 - 0.5 * severity)) * 3)
    metal *= 1 - np.float32(0.3 + 0.4 * severity) * rafts
    pits = smoothstep((patch.fine * 3 + cluster - np.float32(2.7 - 0.7 * severity)) * 3)
    metal *= 1 - np.float32(0.6 * severity) * pits
    view *= 1 - np.float32(0.5 * severity) * pits


def slit(view: F32, patch: Patch, moment: Moment) -> None:
    """The open joint between two beads that did not meet."""
    slit = (patch.aside + 7 * patch.rough) / np.float32(3 + 0.22 * moment.gap)
    gone = smoothstep(patch.behind / np.float32(25)) * (np.float32(0.8) + patch.rough)
    view *= 1 - np.float32(0.1 + 0.4 * moment.severity) * np.exp(-slit * slit) * gone


def hole(view: F32, patch: Patch, recording: Recording, moment: Moment) -> None:
    """Burn-through: a dark ragged hole with a glowing rim, and the sagging, folded skirt behind it."""
    severity, width = moment.severity, moment.half_width
    rng = generator(recording.seed, 91)
    radius_x = width * (0.2 + 0.58 * severity)
    radius_y = radius_x * float(rng.uniform(0.8, 1.4))
    x0 = width * 0.25 * float(rng.uniform(-1, 1)) * (1.2 - severity)
    y0 = radius_y * float(rng.uniform(0.9, 1.3)) + width * float(rng.uniform(0.05, 0.6)) * (1.1 - severity)
    first, last = np.searchsorted(patch.behind[:, 0], [y0 - 2 * radius_y, y0 + 4 * radius_y])
    rows = slice(int(first), int(last))
    part, rough, light = view[rows], patch.rough[rows], patch.light[rows]
    u = (patch.dx[rows] - np.float32(x0)) / np.float32(radius_x)
    v = (patch.behind[rows] - np.float32(y0)) / np.float32(radius_y)
    angle = np.arctan2(v, u)
    ragged = np.zeros_like(angle)
    for lobes in (2, 3, 5, 8):
        turn = np.float32(rng.uniform(0, 6.3) + moment.phase / lobes)
        ragged += np.float32(0.22 / lobes) * np.sin(lobes * angle + turn)
    away = np.sqrt(u * u + v * v) + ragged + np.float32(0.06) * rough
    sag = float(rng.uniform(1.3, 2.3))
    _skirt(part, u, v / np.float32(sag), rough, radius_y * sag, moment, recording)
    turn = np.float32(rng.uniform(0, 6.3))
    uneven = np.float32(0.75) - np.float32(0.25) * v
    uneven = uneven + np.float32(0.35) * np.sin(angle + turn) * np.sin(3 * angle + 2 * turn)
    rim = np.exp(-(((away - np.float32(1.12)) / (np.float32(0.1) + np.float32(0.04) * uneven)) ** 2)) * uneven
    part += rim * np.float32(48 + 50 * severity) * (1 + np.float32(0.8) * rough)
    hole = smoothstep((1 - away) * np.float32(radius_x / 6) + np.float32(0.5))
    depth = light * (np.float32(0.42) + np.float32(0.22) * np.clip(-v, -0.6, 1))
    part += hole * (depth - part)


def _skirt(part: F32, u: F32, v: F32, rough: F32, length: float, moment: Moment, recording: Recording) -> None:
    """Folds of metal that sagged with the hole, darker towards their lower end, where they end in a shadow."""
    below = smoothstep(v * 3)
    reach = np.sqrt(u * u * np.float32(0.8) + v * v) + np.float32(0.07) * rough
    table = ripples(recording.seed, max(16.0, 0.16 * length))
    crease = table[(reach * np.float32(length)).astype(np.int32) & 4095]
    inside = smoothstep((np.float32(1.25) - reach) * 12) * below
    shade = np.float32(0.45) * smoothstep((reach - np.float32(0.6)) * 2) - np.float32(0.28) * crease
    part *= 1 - np.float32(0.4 + 0.6 * moment.severity) * inside * shade
