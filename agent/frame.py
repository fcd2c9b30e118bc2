"""A frame: one delivered image on its way from a source to the ledger.

Invariants: exactly one of ``picture`` and ``problem`` is set, so that a frame is either inspected or becomes a
NotDecidable result; ``key`` names the delivery (not the content), and the ledger takes each key once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from agent.errors import ImageError
from agent.image import Picture


@dataclass(frozen=True)
class Identity:
    """What the image belongs to, as far as its name, sidecar or job tells. Unknown is None."""

    part_id: str | None = None
    job_id: str | None = None
    weld_id: str | None = None
    frame: str | None = None


JobAt = Callable[[datetime], Identity]
"""What an image belongs to that arrived at this time (aware), as far as the station was told: the current job."""


def no_job(_arrived: datetime) -> Identity:
    """``JobAt`` of a station that was told nothing."""
    return Identity()


@dataclass(frozen=True)
class FileKey:
    """What makes a file this file: the same bytes under another name, or a name written again, are a new frame."""

    source: str
    path: bytes  #: relative to the source's folder, as the file system spells it
    inode: int
    size: int  #: bytes
    mtime_ns: int

    def digest(self) -> bytes:
        """16 bytes that stand for the key in the ledger (BLAKE2b over the fields, each with its length)."""
        hasher = hashlib.blake2b(digest_size=16, person=b"weldwatch-file")
        for part in (self.source.encode(), self.path, f"{self.inode} {self.size} {self.mtime_ns}".encode()):
            hasher.update(len(part).to_bytes(8, "little"))
            hasher.update(part)
        return hasher.digest()


@dataclass(frozen=True)
class Frame:
    """One image as a source hands it over."""

    source: str  #: name of the source in the configuration
    name: str  #: path relative to the source, with '/', undecodable bytes as ``\\xNN``
    key: bytes  #: 16 bytes, ``FileKey.digest()`` for files
    captured_at: datetime
    captured_from: str  #: "exif", "name", "mtime" or "camera"
    picture: Picture | None = None
    problem: ImageError | None = None
    sha256: str | None = None  #: of the encoded bytes; None where they could not be read
    bytes: int | None = None  #: length of the encoded image
    identity: Identity = field(default_factory=Identity)
    identity_unknown: bool = False  #: a name pattern is configured, did not match, and nothing else told an id
    decode_ms: float = 0.0
    simulated: bool = False
    result_id: str | None = None  #: the id that its result shall carry, where somebody was told it before

    def __post_init__(self) -> None:
        if (self.picture is None) == (self.problem is None):
            raise ValueError("a frame has either a picture or a problem")


def readable_name(path: bytes) -> str:
    """A file name as text that any JSON reader takes: undecodable bytes become ``\\xNN``."""
    return path.decode("utf-8", errors="backslashreplace")
