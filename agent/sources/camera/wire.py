"""What agent and driver process say to each other.

To the child, on stdin, lines of JSON: first the settings, then ``"open"`` each time it shall connect. The end of stdin
ends the child. From the child, on stdout, messages, each a head and so many bytes:

    kind  at  stream_s  height  width  channels  length │ bytes
    O     opened                                        │
    F     a frame: uint8, gray (1) or RGB (3)           │ pixels, row by row
    E     it did not open, or broke off                 │ one line of UTF-8: why
    Z     the end of a file                             │

Invariants: after an E before O the child waits for the next ``"open"``; after O come F, then one E or Z, then the child
ends. ``at`` is CLOCK_MONOTONIC, which both processes share. Neither this module nor the child imports anything of the
agent that is large.
"""

from __future__ import annotations

import struct
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

HEAD = struct.Struct("<cddIIIQ")
MAX_PIXELS = 64 * 1024 * 1024  #: as agent.image
KEYFRAME_S = 10.0  #: the first frame may take so long: a video stream is understood from its next key frame on
OPENED, FRAME, ERROR, END = b"O", b"F", b"E", b"Z"


@dataclass(frozen=True)
class Settings:
    """What a driver must know."""

    kind: str  #: rtsp, file, usb, genicam, aravis
    target: str  #: url, path, device number, address or serial
    timeout_s: float  #: for connecting, and for the next frame
    username: str | None = None
    password: str | None = None
    transport: str = "tcp"
    producer: str | None = None
    newest: bool = True  #: frames that waited are passed over; a file plays at its own speed

    def __repr__(self) -> str:
        """Without the password: this may end up in a log."""
        return f"Settings({self.kind} {self.target})"

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class DriverError(Exception):
    """No camera, no frame: one line that says why."""


class Stream(Protocol):
    """A driver's open connection."""

    def read(self) -> tuple[np.ndarray, float | None] | None:
        """Next frame (uint8, gray or RGB) and its time in a file; None at the end. ``DriverError`` when none comes."""
        ...

    def close(self) -> None:
        """Let go of the camera."""
        ...
