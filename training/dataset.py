"""A prepared set: what `prepare` writes and every later step reads.

    <set>/dataset.json                       schema weldwatch.dataset/1: every frame, its split, class and digests
    <set>/train|val|test/{0,1}/<frame>.png   128×128 gray; 0 no defect, 1 defect
    <set>/contact-sheet.png                  for a person to look at

Invariants: dataset.json is written last, so a set that has it is complete; a frame whose gray levels are not those that
were prepared is refused when loading, by name.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agent.bundle.preprocess import Preprocessing
from agent.errors import UsageError

SCHEMA = "weldwatch.dataset/1"
INDEX = "dataset.json"


class FrameFacts(msgspec.Struct, frozen=True):
    """One frame of the set."""

    file: str  #: relative to the set
    split: str  #: train, val or test
    label: int  #: 0 no defect, 1 defect
    kind: int  #: number of the original class
    recording: str
    source: str  #: relative to the data that it was prepared from
    sha256: str  #: of the source file
    pixels: str  #: of the prepared gray levels


#: Class to side to (frames taken, frames wanted), where the second could not be had.
Shortfalls = dict[str, dict[str, tuple[int, int]]]


class DatasetIndex(msgspec.Struct, frozen=True, kw_only=True):
    """dataset.json."""

    schema: str = SCHEMA
    created_at: str
    request: str  #: digest of what was asked for, so that the same request is not done twice
    synthetic: bool
    note: str | None  #: the synthetic set's own words
    layout: str
    classes: list[str]
    good: list[int]
    split: str
    seed: int
    preprocessing: Preprocessing
    digest: str  #: SHA-256 over every frame's split, class, recording and gray levels
    available: int  #: labelled frames that were there
    warnings: list[str]
    shortfalls: Shortfalls = {}
    unreadable: list[dict[str, str]]  #: source, problem
    missing: list[str]  #: labelled, but no such file
    duplicates: list[dict[str, str]]  #: name, of, why
    frames: list[FrameFacts]


@dataclass(frozen=True)
class Frames:
    """Some frames of a set, in the order of its index, as arrays of n."""

    gray: NDArray[np.uint8]  #: [n, 128, 128]
    label: NDArray[np.int64]  #: 0 no defect, 1 defect
    kind: NDArray[np.int64]  #: original class
    recording: NDArray[np.str_]
    file: Sequence[str]
    sha256: Sequence[str]

    def __len__(self) -> int:
        return len(self.label)

    @property
    def bad(self) -> NDArray[np.bool_]:
        """True for a defect."""
        return np.asarray(self.label == 1)

    def take(self, which: NDArray[Any]) -> Frames:
        """Those frames that an index or mask names."""
        at = [int(one) for one in (np.flatnonzero(which) if which.dtype == bool else which)]
        names = [self.file[one] for one in at], [self.sha256[one] for one in at]
        return Frames(self.gray[at], self.label[at], self.kind[at], self.recording[at], *names)


@dataclass(frozen=True)
class Dataset:
    """A prepared set in memory (3,200 frames take 52 MB)."""

    directory: Path
    index: DatasetIndex
    frames: Frames

    @cached_property
    def _split(self) -> NDArray[np.str_]:
        return np.array([frame.split for frame in self.index.frames])

    def split(self, name: str) -> Frames:
        """The frames of train, val or test."""
        return self.frames.take(self._split == name)

    def counts(self) -> dict[str, dict[str, int]]:
        """Frames of each original class, and recordings, on each side."""
        table: dict[str, dict[str, int]] = {}
        for side in ("train", "val", "test"):
            mine = [frame for frame in self.index.frames if frame.split == side]
            kinds = Counter(frame.kind for frame in mine)
            table[side] = {name: kinds[number] for number, name in enumerate(self.index.classes)}
            table[side]["recordings"] = len({frame.recording for frame in mine})
        return table


def is_prepared(directory: Path) -> bool:
    """Whether `directory` holds a complete prepared set."""
    return (directory / INDEX).is_file()


def read_index(directory: Path) -> DatasetIndex:
    """dataset.json, checked. Raises UsageError."""
    path = directory / INDEX
    try:
        index = msgspec.json.decode(path.read_bytes(), type=DatasetIndex)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; prepare the set first (weldwatch-train prepare)") from None
    except msgspec.DecodeError as error:
        raise UsageError(f"{path}: {error}; prepare the set again") from None
    if index.schema != SCHEMA:
        raise UsageError(f"{path}: schema {index.schema!r}, this weldwatch reads {SCHEMA!r}; prepare the set again")
    return index


def load(directory: Path) -> Dataset:
    """Read a prepared set whole. Raises UsageError naming the frame that is missing or was changed."""
    index = read_index(directory)
    gray = np.empty((len(index.frames), *index.preprocessing.size[::-1]), dtype=np.uint8)

    def read(number: int) -> None:
        gray[number] = _read_frame(directory, index.frames[number], gray.shape[1:])

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(read, range(len(index.frames))):
            pass
    frames = Frames(
        gray,
        np.array([frame.label for frame in index.frames], dtype=np.int64),
        np.array([frame.kind for frame in index.frames], dtype=np.int64),
        np.array([frame.recording for frame in index.frames], dtype=np.str_),
        [frame.file for frame in index.frames],
        [frame.sha256 for frame in index.frames],
    )
    return Dataset(directory, index, frames)


def _read_frame(directory: Path, facts: FrameFacts, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    path = directory / facts.file
    try:
        with Image.open(io.BytesIO(path.read_bytes()), formats=("PNG",)) as image:
            gray = np.asarray(image.convert("L"), dtype=np.uint8)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or 'not a PNG'}; prepare the set again") from None
    if gray.shape != shape or pixel_digest(gray) != facts.pixels:
        raise UsageError(f"{path}: not the frame that was prepared; prepare the set again")
    return gray


def pixel_digest(gray: NDArray[np.uint8]) -> str:
    """SHA-256 of gray levels [height, width], row by row."""
    return hashlib.sha256(np.ascontiguousarray(gray).tobytes()).hexdigest()


def set_digest(frames: Sequence[FrameFacts]) -> str:
    """SHA-256 over what the frames are and how they are used, whatever their files are called."""
    lines = sorted(f"{f.split} {f.label} {f.kind} {f.recording} {f.pixels}" for f in frames)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def short_table(index: DatasetIndex) -> list[str]:
    """What could not be had, as a table for a terminal: a row a class, "taken of wanted" a side; empty if nothing."""
    if not index.shortfalls:
        return []
    sides = ("train", "val", "test")
    rows: list[tuple[str, ...]] = [("taken of wanted", *sides)]
    for name, row in index.shortfalls.items():
        rows.append((name, *(f"{row[side][0]} of {row[side][1]}" if side in row else "as wanted" for side in sides)))
    first = max(len(row[0]) for row in rows)
    return [f"{row[0]:<{first}}" + "".join(f"  {cell:>12}" for cell in row[1:]) for row in rows]
