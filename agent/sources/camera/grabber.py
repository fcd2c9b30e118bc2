"""The port behind which all cameras look alike, and what they hand over.

Invariants: ``open`` and ``read`` end by themselves, with ``RetryError`` when the camera does not answer in time;
``close`` may be called from another thread, ends an ``open`` or ``read`` that waits, and is for good.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from agent.image import Picture, decode


@dataclass(frozen=True)
class Grab:
    """One frame as the camera gave it: pixels, or an encoded image that nobody has decoded yet."""

    at: float  #: when it arrived, seconds on the monotonic clock
    stream_s: float  #: its place in the stream: ``at`` for a camera, the film's own time for a file
    pixels: np.ndarray | None = None  #: uint8, gray [height, width] or RGB [height, width, 3]
    data: bytes | None = None  #: a JPEG, byte for byte as the camera sent it

    @cached_property
    def picture(self) -> Picture:
        """Decode it. ``ImageError`` where that cannot be."""
        if self.data is not None:
            return decode(self.data)
        assert self.pixels is not None
        return Picture.from_array(self.pixels)

    def same_as(self, other: Grab) -> bool:
        """Whether both show exactly the same; differing pictures differ early, so this costs next to nothing."""
        if self.data is not None and other.data is not None:
            return _scan(self.data) == _scan(other.data)
        return np.array_equal(self.pixels, other.pixels) if self.pixels is not None is not other.pixels else False


def _scan(data: bytes) -> memoryview:
    """A JPEG from its last scan on: what lies before may hold a clock that goes on while the picture is frozen."""
    return memoryview(data)[max(0, data.rfind(b"\xff\xda")) :]


class Grabber(Protocol):
    """A connection to one camera. Constructing it connects nothing."""

    waits: bool  #: a file: what is not read yet is not lost

    def open(self) -> None:
        """Connect, or connect anew after a ``RetryError``, which it raises itself while there is no camera."""
        ...

    def read(self) -> Grab | None:
        """The next frame; None at the end of a file. ``RetryError`` when none comes in time: ``open`` again."""
        ...

    def close(self) -> None:
        """Let go for good, from any thread; calling it twice does no harm."""
        ...
