"""Pixels of industrial cameras, by their names in the GenICam Pixel Format Naming Convention, to 8 bits."""

from __future__ import annotations

import numpy as np

from agent.sources.camera.wire import DriverError

#: Bits that carry the gray level, in two bytes each, little endian, unpacked.
_DEEP = {"Mono10": 10, "Mono12": 12, "Mono14": 14, "Mono16": 16}
_CHANNELS = {"Mono8": 1, "RGB8": 3, "BGR8": 3, "RGBa8": 4, "BGRa8": 4, "RGB8Packed": 3, "BGR8Packed": 3}


def to_8_bit(form: str, data: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 gray [height, width] or RGB [height, width, 3] from a buffer of bytes; always a copy.

    More than 8 bits are cut to the highest 8, whatever the picture shows. ``DriverError`` for a format that we do not
    read, or a buffer that is too short for it.
    """
    channels, size = (1, 2) if form in _DEEP else (_CHANNELS.get(form, 0), 1)
    if not channels:
        raise DriverError(f"the camera sends {form}; set its PixelFormat to Mono8 or RGB8")
    need = height * width * channels * size
    if data.nbytes < need:
        raise DriverError(f"an incomplete frame: {data.nbytes} bytes instead of {need}")
    raw = data.view(np.uint8).reshape(-1)[:need]
    if form in _DEEP:
        levels: np.ndarray = raw.view("<u2").reshape(height, width) >> (_DEEP[form] - 8)
        return np.asarray(levels, np.uint8)
    if channels == 1:
        return np.array(raw.reshape(height, width))
    colours: np.ndarray = raw.reshape(height, width, channels)[..., :3]
    return np.array(colours[..., ::-1] if form.startswith("BGR") else colours, order="C")
