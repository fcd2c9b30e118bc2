"""Pictures that carry the time at which they were drawn, readable after any camera's compression.

Sixteen blocks, black or white, are a counter of hundredths of a second on the machine's monotonic clock, which all
processes share; the rest of the picture is noise around a gray level, never twice the same. Drawing needs nothing but
Python, because the RTSP server runs in the system's, which has no numpy.
"""

from __future__ import annotations

import random
import time
from typing import Any

WIDTH, HEIGHT = 320, 240
_BLOCK = 20
_BITS = 16
_TICK_S = 0.01


def stamped(now: float | None = None, level: int = 120) -> bytes:
    """Gray levels, row by row: 240 rows of 320."""
    ticks = int((time.monotonic() if now is None else now) / _TICK_S) % (1 << _BITS)
    row = b"".join((b"\xff" if ticks >> bit & 1 else b"\0") * _BLOCK for bit in range(_BITS))
    noise = random.randbytes(WIDTH * (HEIGHT - _BLOCK))
    return row * _BLOCK + noise.translate(bytes(level - 10 + value * 20 // 255 for value in range(256)))


def age_s(picture: Any, now: float) -> float:
    """How old a picture (uint8, gray or RGB) was at ``now`` (monotonic seconds): resolution 10 ms, modulo 655 s.

    Times that were rounded on their way may make it a little younger than new: down to -1 s.
    """
    gray = picture if picture.ndim == 2 else picture[..., 1]
    ticks = 0
    for bit in range(_BITS):
        block = gray[5 : _BLOCK - 5, bit * _BLOCK + 5 : (bit + 1) * _BLOCK - 5]
        ticks |= int(block.mean() > 127) << bit
    ahead = round(1 / _TICK_S)
    return float(((int(now / _TICK_S) - ticks + ahead) % (1 << _BITS) - ahead) * _TICK_S)
