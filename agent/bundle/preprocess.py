"""Preprocessing as data: one function turns a picture into the model's input, for training and for the agent.

Invariants
- No step depends on the picture's content: no stretching, no equalising, no "if the maximum is above 1".
- Everything up to 8-bit gray at the model's size happens in ``to_gray``. A frame prepared for training and saved as PNG
  therefore gives exactly the tensor that the camera's own frame gives.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from PIL import Image

from agent.image import Picture

Fraction = Annotated[float, Meta(ge=0, le=1)]

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class Preprocessing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a picture becomes the input. Part of every manifest."""

    colour: Literal["gray"] = "gray"  #: luma by ITU-R 601 (L = 0.299 R + 0.587 G + 0.114 B), repeated three times
    crop: tuple[Fraction, Fraction, Fraction, Fraction] | None = (
        None  #: left, top, right, bottom as parts of the picture
    )
    size: tuple[Annotated[int, Meta(ge=8, le=2048)], Annotated[int, Meta(ge=8, le=2048)]] = (128, 128)  #: width, height
    filter: Literal["nearest", "box", "bilinear", "bicubic", "lanczos"] = "bilinear"  #: Pillow's, area-aware
    reducing_gap: Annotated[float, Meta(ge=1, le=10)] | None = 2.0  #: Pillow's two-step reduction; null: one exact step

    def __post_init__(self) -> None:
        if self.crop is not None and not (self.crop[0] < self.crop[2] and self.crop[1] < self.crop[3]):
            raise ValueError("crop is left, top, right, bottom with left < right and top < bottom")


def to_gray(picture: Picture, spec: Preprocessing) -> NDArray[np.uint8]:
    """Picture to gray levels at the model's size: uint8 [height, width], 0…255."""
    image = picture.image if picture.image.mode == "L" else picture.image.convert("L")
    box = None
    if spec.crop is not None:
        left, top, right, bottom = spec.crop
        box = (left * image.width, top * image.height, right * image.width, bottom * image.height)
    if image.size != spec.size or box is not None:
        image = image.resize(spec.size, _FILTERS[spec.filter], box=box, reducing_gap=spec.reducing_gap)
    return np.asarray(image, dtype=np.uint8)


def to_input(gray: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Gray levels uint8 [height, width] to the graph's input: float32 [1, height, width, 3] in 0…1."""
    scaled = gray.astype(np.float32) / np.float32(255)
    return np.repeat(scaled[np.newaxis, :, :, np.newaxis], 3, axis=3)
