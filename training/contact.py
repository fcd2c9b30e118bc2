"""The contact sheet: one look at a prepared set tells whether classes and frames are what they should be."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from PIL.Image import Image as PilImage

from training.dataset import DatasetIndex, FrameFacts

COLUMNS = 10
_TILE, _GAP, _HEAD = 128, 4, 22


def sheet(directory: Path, index: DatasetIndex) -> PilImage:
    """A row of frames for each side and original class, each from another recording as far as there are any."""
    rows: list[tuple[str, list[FrameFacts]]] = []
    for side in ("train", "val", "test"):
        for kind, name in enumerate(index.classes):
            mine = [frame for frame in index.frames if frame.split == side and frame.kind == kind]
            if mine:
                recordings = len({frame.recording for frame in mine})
                label = "no defect" if kind in index.good else "defect"
                title = f"{side} / {label}: {name}, {len(mine)} frames of {recordings} recordings"
                rows.append((title, _spread(mine)))
    width = COLUMNS * (_TILE + _GAP) + _GAP
    top = _HEAD if index.synthetic else 0
    image = Image.new("RGB", (width, top + len(rows) * (_TILE + _HEAD + _GAP)), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(14)
    if index.synthetic:
        draw.text((_GAP, 3), "SYNTHETIC frames: no recordings of real welding", fill="#b00020", font=font)
    for number, (title, frames) in enumerate(rows):
        y = top + number * (_TILE + _HEAD + _GAP)
        draw.text((_GAP, y + 3), title, fill="black", font=font)
        for column, frame in enumerate(frames):
            with Image.open(directory / frame.file, formats=("PNG",)) as tile:
                image.paste(tile, (_GAP + column * (_TILE + _GAP), y + _HEAD))
    return image


def _spread(frames: list[FrameFacts]) -> list[FrameFacts]:
    """Up to COLUMNS frames, going round the recordings."""
    places: dict[str, list[FrameFacts]] = {}
    for frame in frames:
        places.setdefault(frame.recording, []).append(frame)
    rounds = max(len(one) for one in places.values())
    order = [one[turn] for turn in range(rounds) for one in places.values() if turn < len(one)]
    return order[:COLUMNS]
