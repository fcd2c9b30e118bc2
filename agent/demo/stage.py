"""What stays put while a recording runs: light, torch, electrode, and the plate that slides beneath them.

Invariant: a `Stage` depends on the recording and the picture size alone, so it is made once and kept by the renderer.
Arrays are float32 [height, width] in gray levels unless said otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from agent.demo.fields import F32, Strip, cloud, generator, resized, smoothstep
from agent.demo.recording import SIZE, Recording

TILE = (SIZE[0], 1536)


@dataclass(frozen=True)
class Stage:
    """The still part of a recording at one picture size.

    `x` [width] and `y` [height] are scene units at the pixel centres, `unit` is scene units a pixel, `stretch` pixels a
    reference pixel downwards. `matte` (0…1) and `torch` cover the first rows only: torch and electrode in front.
    """

    x: F32
    y: F32
    unit: float
    stretch: float
    light: F32
    texture_gain: F32
    halo: F32
    matte: F32
    torch: F32
    plate: Strip
    rough: Strip
    fine: Strip


def build(recording: Recording, size: tuple[int, int]) -> Stage:
    """Draw everything that does not move (about 0.2 s; keep the answer)."""
    width, height = size
    camera = recording.camera
    x = _axis(width, SIZE[0], camera.tip_x, camera.scale)
    y = _axis(height, SIZE[1], camera.tip_y, camera.scale)
    light, texture_gain, halo = _light(recording, size)
    matte, torch = _foreground(recording, x, y)
    tile = (width, round(TILE[1] * height / SIZE[1]))
    seed = recording.seed
    rough = 0.55 * cloud(TILE, (26, 26), seed, 21) + 0.45 * cloud(TILE, (9, 9), seed, 22)
    fine = 0.5 * cloud(TILE, (6, 6), seed, 23) + 0.6 * cloud(TILE, (2.5, 2.5), seed, 24)
    return Stage(
        x=x,
        y=y,
        unit=SIZE[0] / width / camera.scale,
        stretch=height / SIZE[1],
        light=light,
        texture_gain=texture_gain,
        halo=halo,
        matte=matte,
        torch=torch,
        plate=Strip(resized(_plate_tile(recording), tile)),
        rough=Strip(resized(np.asarray(rough / 3, dtype=np.float32), tile)),
        fine=Strip(resized(np.asarray(fine / 3, dtype=np.float32), tile)),
    )


def _axis(pixels: int, reference: int, origin: float, scale: float) -> F32:
    centers = (np.arange(pixels, dtype=np.float32) + 0.5) * (reference / pixels)
    return np.asarray((centers - origin) / scale, dtype=np.float32)


def _light(recording: Recording, size: tuple[int, int]) -> tuple[F32, F32, F32]:
    """Plate light, texture gain and arc halo; smooth, therefore computed coarsely and enlarged."""
    camera, light, plate = recording.camera, recording.light, recording.plate
    columns, rows = 100, 122
    x = _axis(columns, SIZE[0], camera.tip_x, camera.scale)[None, :]
    y = _axis(rows, SIZE[1], camera.tip_y, camera.scale)[:, None]
    spot = np.exp(-(((x - light.center_x) / light.spread_x) ** 2) - ((y - light.center_y) / light.spread_y) ** 2)
    across, down = np.linspace(-1, 1, columns)[None, :], np.linspace(-1, 1, rows)[:, None]
    field = light.ambient + light.pool_light * spot + light.slope_x * across + light.slope_y * down
    field += light.cone * _cone(recording, x, y)
    dome = (x / light.dome_radius) ** 2 + ((y - 60) / (1.3 * light.dome_radius)) ** 2
    field += light.dome * smoothstep(np.asarray((1.15 - dome) * 3, dtype=np.float32)) * np.exp(-np.abs(y) / 260)
    field += 3 * cloud((columns, rows), (30, 30), recording.seed, 31)
    field = np.maximum(field, 2) * (1 - camera.vignette * (across**2 + down**2) / 2)
    grazing = np.clip((np.hypot(x, y - 120) - 120) / 300, 0, 1)
    texture = field * (plate.contrast + plate.edge_contrast * plate.contrast * 3 * grazing)
    shaft = np.hypot(x, y - np.clip(y, -recording.torch.stickout, -30))
    near = np.maximum(shaft - recording.torch.electrode, 0)
    halo = light.halo * (0.7 * np.exp(-near / light.halo_radius) + 0.3 * np.exp(-near / 220))
    fields = (np.asarray(f, dtype=np.float32) for f in (field, texture, halo))
    first, second, third = (resized(f, size) for f in fields)
    return first, second, third


def _cone(recording: Recording, x: F32, y: F32) -> F32:
    """The lit fume below the electrode, a soft wedge that may lean to one side."""
    light = recording.light
    reach = np.hypot(x, y + 20) + 1
    angle = np.arctan2(x, y + 40) - light.cone_angle
    wedge = np.exp(-((angle / light.cone_width) ** 2)) * np.exp(-reach / 330)
    return np.asarray(wedge, dtype=np.float32)


def _foreground(recording: Recording, x: F32, y: F32) -> tuple[F32, F32]:
    """Matte and gray levels of cup and electrode for the rows above the electrode's tip."""
    torch, soft = recording.torch, recording.camera.softness
    last = int(np.searchsorted(y, 12.0))
    y = y[:last, None]
    x = x[None, :]
    across = np.clip(np.abs((x - torch.cup_shift) / torch.cup_radius), 0, 1)
    arc = (1 - across**torch.cup_power) ** (1 / torch.cup_power)
    inside = np.where(across < 1, -torch.stickout + torch.cup_depth * (arc - 1) - y, -50).astype(np.float32)
    cup = smoothstep(inside / (1.6 * soft) + 0.5)
    level = torch.cup_level * (1 - 0.6 * across) + 3
    level = level + torch.band * np.exp(-(((inside - 235 + 60 * across**2) / 26) ** 2))
    level = level + torch.rim * np.exp(-((inside / 4) ** 2))
    glow = np.exp(-np.maximum(inside, 0) / 85) * np.exp(-((x / 130) ** 2))
    level = level + recording.light.halo * 0.75 * glow
    rod, metal = _electrode(recording, np.asarray(x), np.asarray(y))
    rod = rod * (1 - cup)
    matte = cup + rod
    values = np.where(matte > 0, (cup * level + rod * metal) / np.maximum(matte, 1e-3), 0)
    return np.asarray(matte, dtype=np.float32), np.asarray(values, dtype=np.float32)


def _electrode(recording: Recording, x: F32, y: F32) -> tuple[F32, F32]:
    """Matte and gray levels of the glowing electrode: a shaft that ends in a molten ball."""
    torch, soft = recording.torch, recording.camera.softness
    ball = torch.electrode * torch.ball
    tip = np.hypot(x, y + ball) - ball
    shaft = np.where(y < -ball, np.abs(x) - torch.electrode, 99)
    distance = np.minimum(tip, shaft)
    rod = smoothstep(np.asarray(0.5 - distance / (1.5 * soft), dtype=np.float32))
    seam = y + 1.35 * ball + torch.seam * x
    level = torch.level + 0.3 * recording.light.halo - 18 + 30 * np.clip(1 + y / torch.stickout, 0, 1)
    level = level - 16 * np.exp(-((seam / 3) ** 2)) + 12 * smoothstep(np.asarray(seam / 12, dtype=np.float32))
    level = level + 38 * np.exp(np.minimum(distance, 0) / 9) * np.clip(1.2 + y / ball, 0, 1)
    return rod, np.asarray(level, dtype=np.float32)


def _plate_tile(recording: Recording) -> F32:
    """The endless plate surface, float32 [1536, 800] in -1…1: strokes, mottling, grain, specks, stains."""
    plate, seed = recording.plate, recording.seed
    rng = generator(seed, 41)
    picture = Image.new("L", TILE, 128)
    pen = ImageDraw.Draw(picture)
    _stroke(pen, rng, plate.strokes, plate.brush_angle, plate.brush_fan)
    for x, y, radius, level in zip(
        rng.uniform(0, TILE[0], plate.specks),
        rng.uniform(10, TILE[1] - 10, plate.specks),
        rng.gamma(2.0, 0.9, plate.specks) + 0.6,
        rng.integers(170, 256, plate.specks),
        strict=True,
    ):
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=int(level))
    blurred = np.asarray(picture.filter(ImageFilter.GaussianBlur(1.1)), dtype=np.float32)
    field: F32 = np.asarray((blurred - 128) / 128, dtype=np.float32)
    field += 0.10 * cloud(TILE, (3, 60) if abs(plate.brush_angle) > 0.8 else (60, 3), seed, 42)
    field += plate.mottle * 0.45 * cloud(TILE, (70, 110), seed, 43) + 0.05 * cloud(TILE, (7, 7), seed, 44)
    for _ in range(plate.stains):
        _stain(field, rng)
    return np.asarray(np.clip(field, -1, 1), dtype=np.float32)


def _stroke(pen: ImageDraw.ImageDraw, rng: np.random.Generator, count: int, angle: float, fan: float) -> None:
    """Brush strokes around one angle, which fans out from left to right; drawn twice so that the tile closes."""
    x, y = rng.uniform(-60, TILE[0] + 60, count), rng.uniform(0, TILE[1], count)
    length = rng.gamma(2.0, 28, count)
    turn = angle + fan * ((x / TILE[0] - 0.5) * 2 + rng.normal(0, 0.25, count))
    dx, dy = np.cos(turn) * length, np.sin(turn) * length
    levels = np.clip(128 + rng.normal(6, 48, count), 0, 255).astype(int)
    for x0, y0, x1, y1, level in zip(x, y, x + dx, y + dy, levels, strict=True):
        for wrap in (0, -TILE[1]):
            pen.line((x0, y0 + wrap, x1, y1 + wrap), fill=int(level), width=1 if level & 1 else 2)


def _stain(field: F32, rng: np.random.Generator) -> None:
    """Darken (or, seldom, lighten) one soft spot of the plate in place."""
    radius = float(rng.uniform(5, 34))
    span = int(3 * radius)
    x, y = int(rng.integers(0, TILE[0])), int(rng.integers(span, TILE[1] - span))
    left, right = max(0, x - span), min(TILE[0], x + span)
    grid_y, grid_x = np.mgrid[y - span : y + span, left:right]
    depth = float(rng.uniform(0.2, 0.8)) * (1 if rng.random() < 0.8 else -0.6)
    bend = float(rng.uniform(0.5, 1.6))
    distance = ((grid_x - x) * bend) ** 2 + ((grid_y - y) / bend) ** 2
    field[y - span : y + span, left:right] -= (depth * np.exp(-distance / radius**2)).astype(np.float32)
