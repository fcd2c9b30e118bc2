"""What one frame of a recording shows: how far the torch has come, the arc, the pool, and the defect.

Invariant: everything drifts slowly with the frame's index (waves of tens to hundreds of frames) except a small arc
flicker, so neighbours look alike; a defect departs from the recording's sound weld and from nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agent.demo.fields import Wave, generator
from agent.demo.recording import Recording

KINDS = ("good weld", "burn through", "contamination", "lack of fusion", "misalignment", "lack of penetration")
GOOD, BURN, DIRT, FUSION, OFFSET, STARVED = range(6)


@dataclass(frozen=True)
class Moment:
    """The drawn state of one frame; lengths in scene units, gains as factors around 1.

    `severity` is 0 for a good weld, else 0.36 (faint) to 1 (plain). `joint_at` is the way from bead to joint.
    """

    kind: int
    index: int
    severity: float
    side: float
    travel: float
    brightness: float
    flicker: float
    half_width: float
    lead: float
    pool_length: float
    gap: float
    joint_at: float
    phase: float
    mirror: float
    roughness: float


def moment(recording: Recording, kind: int, index: int) -> Moment:
    """The state of frame `index` (any integer from 0) of `recording` with the weld of class `kind`."""
    if not 0 <= kind < len(KINDS):
        raise ValueError(f"kind {kind}: allowed are 0 to {len(KINDS) - 1}")
    seed, bead = recording.seed, recording.bead
    slow = [Wave(70, 400, seed, 50 + n).at(index) for n in range(5)]
    quick = [Wave(7, 40, seed, 60 + n).at(index) for n in range(2)]
    jitter = generator(seed, 70, index).standard_normal()
    severity = _severity(seed, kind, index)
    side = 1.0 if generator(seed, 71, kind).random() < 0.5 else -1.0
    width = bead.half_width * (1 + 0.07 * slow[0] + 0.015 * quick[0])
    length = bead.pool_length * (1 + 0.12 * slow[1] + 0.04 * quick[1])
    mirror = bead.mirror * (1 + 0.25 * slow[4])
    joint = 0.1 * width * slow[2]
    if kind == FUSION:
        width *= 1 + 0.1 * severity
    elif kind == OFFSET:
        width *= 1 - 0.15 * severity
        joint += side * width * (0.8 + 0.75 * severity)
    elif kind == STARVED:
        width *= 0.75 - 0.33 * severity
        length *= 0.9 - 0.3 * severity
        mirror *= 0.9 - 0.5 * severity
    return Moment(
        kind=kind,
        index=index,
        severity=severity,
        side=side,
        travel=recording.speed * index,
        brightness=1 + 0.06 * slow[3],
        flicker=float(1 + recording.light.flicker * (0.6 * quick[0] + jitter)),
        half_width=width,
        lead=bead.lead + 6 * slow[1] + 2 * quick[1],
        pool_length=length,
        gap=width * (0.17 * severity - 0.02) if kind == FUSION else 0.0,
        joint_at=joint,
        phase=index / 23.0,
        mirror=mirror,
        roughness=bead.roughness * (1 + 3 * severity if kind == DIRT else 1),
    )


def _severity(seed: int, kind: int, index: int) -> float:
    """Slowly swelling 0.36…1, at a level of the recording's own; 0 for a good weld."""
    if kind == GOOD:
        return 0.0
    level = generator(seed, 72, kind).uniform(-0.8, 1.2)
    swell = level + 0.5 * Wave(60, 300, seed, 73, kind).at(index)
    return float(0.36 + 0.64 / (1 + np.exp(-1.8 * swell)))
