"""What is fixed for one recording: the set-up of torch, light, camera, plate and bead, drawn from its seed.

Lengths are scene units: pixels of the 800 × 974 reference frame before the camera's scale, origin at the electrode's
tip, x to the right, y down (the torch travels up the picture, the bead trails below). Gray levels are those of the HDR
process camera, 0…255. The ranges follow measurements on frames of the public aluminium set.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agent.demo.fields import generator

SIZE = (800, 974)


@dataclass(frozen=True)
class Camera:
    """Where the electrode's tip sits in the frame, and what the sensor does to the light."""

    tip_x: float
    tip_y: float
    scale: float
    tilt: float
    mirrored: bool
    softness: float
    exposure: float
    gamma: float
    noise: float
    row_pattern: float
    vignette: float


@dataclass(frozen=True)
class Torch:
    """Gas cup and electrode."""

    cup_radius: float
    cup_depth: float
    cup_power: float
    cup_shift: float
    cup_level: float
    band: float
    rim: float
    stickout: float
    electrode: float
    ball: float
    seam: float
    level: float


@dataclass(frozen=True)
class Light:
    """Plate brightness, arc halo, cone and dome, in gray levels and scene units."""

    ambient: float
    pool_light: float
    spread_x: float
    spread_y: float
    center_x: float
    center_y: float
    slope_x: float
    slope_y: float
    halo: float
    halo_radius: float
    cone: float
    cone_angle: float
    cone_width: float
    dome: float
    dome_radius: float
    flicker: float


@dataclass(frozen=True)
class Plate:
    """Surface finish: brush strokes, mottling, specks, stains, scribe line and joint."""

    contrast: float
    edge_contrast: float
    brush_angle: float
    brush_fan: float
    strokes: int
    mottle: float
    specks: int
    stains: int
    scribe: float
    joint_width: float
    joint_depth: float
    joint_glint: float
    joint_step: float


@dataclass(frozen=True)
class Bead:
    """Size and habit of the sound weld of this recording; defects depart from it."""

    half_width: float
    lead: float
    arch: float
    pool_length: float
    wander: float
    edge_wave: float
    roughness: float
    toe_left: float
    toe_right: float
    level: float
    crown: float
    side_light: float
    ripple: float
    ripple_pitch: float
    ripple_bend: float
    crease: float
    crease_width: float
    zone: float
    zone_gain: float
    zone_soft: float
    zone_ragged: float
    zone_grain: float
    mirror: float
    mirror_size: float
    shade: float
    flecks: float


@dataclass(frozen=True)
class Recording:
    """One simulated recording. `speed` is the travel in scene units a frame."""

    seed: int
    speed: float
    camera: Camera
    torch: Torch
    light: Light
    plate: Plate
    bead: Bead


def recording(seed: int) -> Recording:
    """The recording of `seed` (non-negative); the same seed gives the same recording."""
    rng = generator(seed, 1)
    return Recording(
        seed=seed,
        speed=float(rng.uniform(0.8, 4.0)),
        camera=_camera(generator(seed, 2)),
        torch=_torch(generator(seed, 3)),
        light=_light(generator(seed, 4)),
        plate=_plate(generator(seed, 5)),
        bead=_bead(generator(seed, 6)),
    )


def _camera(rng: np.random.Generator) -> Camera:
    return Camera(
        tip_x=float(np.clip(rng.normal(400, 55), 270, 530)),
        tip_y=float(rng.uniform(190, 440)),
        scale=float(rng.uniform(0.85, 1.12)),
        tilt=float(rng.normal(0, 0.055)),
        mirrored=bool(rng.random() < 0.5),
        softness=float(rng.uniform(1.6, 5.0)),
        exposure=float(np.exp(rng.uniform(-0.3, 0.28))),
        gamma=float(rng.uniform(0.85, 1.2)),
        noise=float(rng.uniform(0.15, 1.2)),
        row_pattern=float(rng.uniform(0.0, 0.02)),
        vignette=float(rng.uniform(0.05, 0.5)),
    )


def _torch(rng: np.random.Generator) -> Torch:
    return Torch(
        cup_radius=float(rng.uniform(300, 400)),
        cup_depth=float(rng.uniform(170, 300)),
        cup_power=float(rng.uniform(2.0, 2.7)),
        cup_shift=float(rng.normal(-25, 22)),
        cup_level=float(rng.uniform(6, 22)),
        band=float(rng.uniform(0, 24)),
        rim=float(rng.uniform(0, 14)),
        stickout=float(rng.uniform(70, 135)),
        electrode=float(rng.uniform(39, 55)),
        ball=float(rng.uniform(0.96, 1.12)),
        seam=float(rng.uniform(-0.12, 0.06)),
        level=float(rng.uniform(155, 205)),
    )


def _light(rng: np.random.Generator) -> Light:
    return Light(
        ambient=float(rng.uniform(14, 50)),
        pool_light=float(rng.uniform(25, 65)),
        spread_x=float(rng.uniform(190, 480)),
        spread_y=float(rng.uniform(220, 600)),
        center_x=float(rng.normal(0, 70)),
        center_y=float(rng.uniform(80, 420)),
        slope_x=float(rng.normal(0, 12)),
        slope_y=float(rng.normal(4, 14)),
        halo=float(rng.uniform(45, 105)),
        halo_radius=float(rng.uniform(35, 110)),
        cone=float(rng.uniform(0, 45)) * float(rng.random() < 0.7),
        cone_angle=float(rng.normal(0, 0.5)),
        cone_width=float(rng.uniform(0.15, 0.5)),
        dome=float(rng.uniform(8, 32)) * float(rng.random() < 0.5),
        dome_radius=float(rng.uniform(150, 260)),
        flicker=float(rng.uniform(0.01, 0.05)),
    )


def _plate(rng: np.random.Generator) -> Plate:
    return Plate(
        contrast=float(rng.uniform(0.04, 0.22)),
        edge_contrast=float(rng.uniform(0.2, 2.0)),
        brush_angle=float(rng.choice([np.pi / 2, np.pi / 2, 0.0, 0.25, -0.25]) + rng.normal(0, 0.12)),
        brush_fan=float(rng.uniform(0.02, 0.45)),
        strokes=int(rng.integers(300, 2600)),
        mottle=float(rng.uniform(0.05, 0.45)),
        specks=int(rng.integers(0, 500)),
        stains=int(rng.integers(0, 14)),
        scribe=float(rng.choice([-1, 1]) * rng.uniform(1.7, 3.0)) * float(rng.random() < 0.35),
        joint_width=float(rng.uniform(6, 12)),
        joint_depth=float(rng.uniform(0.55, 0.85)),
        joint_glint=float(rng.uniform(-0.1, 0.35)),
        joint_step=float(rng.uniform(-0.16, 0.16)),
    )


def _bead(rng: np.random.Generator) -> Bead:
    return Bead(
        half_width=float(rng.uniform(75, 170)),
        lead=float(rng.uniform(-15, 95)),
        arch=float(rng.uniform(0.75, 1.35)),
        pool_length=float(rng.uniform(1.5, 3.0)),
        wander=float(rng.uniform(1, 9)),
        edge_wave=float(rng.uniform(0.5, 6.5)),
        roughness=float(rng.uniform(0.5, 4.5)),
        toe_left=float(rng.uniform(-0.45, 0.4)),
        toe_right=float(rng.uniform(-0.45, 0.4)),
        level=float(rng.uniform(0.8, 1.3)),
        crown=float(rng.uniform(-0.15, 0.3)),
        side_light=float(rng.normal(0, 0.12)),
        ripple=float(rng.uniform(0.03, 0.2)),
        ripple_pitch=float(rng.uniform(7, 24)),
        ripple_bend=float(rng.uniform(0.35, 1.1)),
        crease=float(rng.uniform(-0.25, 0.15)) * float(rng.random() < 0.6),
        crease_width=float(rng.uniform(4, 11)),
        zone=float(rng.uniform(15, 130)),
        zone_gain=float(rng.uniform(-0.25, 0.5)),
        zone_soft=float(rng.uniform(6, 45)),
        zone_ragged=float(rng.uniform(15, 60)),
        zone_grain=float(rng.uniform(0.05, 0.22)),
        mirror=float(rng.uniform(35, 125)),
        mirror_size=float(rng.uniform(0.35, 1.0)),
        shade=float(rng.uniform(0, 0.6)),
        flecks=float(rng.uniform(0, 0.45)),
    )
