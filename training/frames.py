"""Every frame read once, on all processors, to 128×128 gray: the half of `prepare` that takes time.

    <work>/<digest>.chunk     msgpack: the Record of each of up to 128 frames, in the list's order

Invariants
- A chunk's name is the digest of its frames' names, sizes and times and of the preprocessing, and it appears whole
  or not at all: what is there is right, so a run that was interrupted goes on where it stopped.
- Memory stays flat: a chunk is read, used and dropped. What remains of a frame are its digests and a thumbnail.
- A frame that cannot be read becomes a Record with its problem; reading goes on.
"""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agent.bundle.preprocess import Preprocessing, to_gray
from agent.errors import FatalError, ImageError
from agent.image import decode

CHUNK = 128
THUMB = 32  #: pixels each way

Progress = Callable[[int, int], None]


class Record(msgspec.Struct, frozen=True):
    """One frame as it was read. `problem` is None for a good one; then the other fields are filled."""

    name: str
    problem: str | None = None
    sha256: str = ""  #: of the file
    pixels: str = ""  #: SHA-256 of the prepared gray levels
    thumb: bytes = b""  #: THUMB × THUMB gray levels
    png: bytes = b""  #: the prepared frame


def prepare_frames(
    root: Path,
    names: Sequence[str],
    spec: Preprocessing,
    work: Path,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Read and prepare `names` (relative to `root`); returns the chunk files under `work`, in the order of `names`.

    `progress(done, total)` is told of frames. Raises FatalError when a worker dies (memory), OSError when the disk
    refuses.
    """
    work.mkdir(parents=True, exist_ok=True)
    pieces = [list(names[start : start + CHUNK]) for start in range(0, len(names), CHUNK)]
    targets = [work / f"{_digest(root, piece, spec)}.chunk" for piece in pieces]
    jobs = [(piece, target) for piece, target in zip(pieces, targets, strict=True) if not target.exists()]
    done, total = len(names) - sum(len(piece) for piece, _ in jobs), len(names)
    if progress is not None:
        progress(done, total)
    for count in _run(root, jobs, spec, workers or len(os.sched_getaffinity(0))):
        done += count
        if progress is not None:
            progress(done, total)
    return targets


def read_chunk(path: Path) -> list[Record]:
    """The records of one chunk file."""
    return msgspec.msgpack.decode(path.read_bytes(), type=list[Record])


def gray_of(record: Record) -> NDArray[np.uint8]:
    """The prepared frame's gray levels, uint8 [height, width]."""
    with Image.open(io.BytesIO(record.png), formats=("PNG",)) as image:
        return np.asarray(image, dtype=np.uint8)


def _run(root: Path, jobs: list[tuple[list[str], Path]], spec: Preprocessing, workers: int) -> Iterator[int]:
    """Do the jobs; yields the number of frames as chunks get done. Spawned workers inherit no threads or locks."""
    if workers == 1 or len(jobs) < 2:
        for piece, target in jobs:
            yield _prepare(root, piece, spec, target)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
        pending = [pool.submit(_prepare, root, piece, spec, target) for piece, target in jobs]
        try:
            for future in as_completed(pending):
                yield future.result()
        except BrokenProcessPool:
            raise FatalError("a worker that reads frames was killed, perhaps for memory; run again to go on") from None
        finally:
            for future in pending:
                future.cancel()


def _digest(root: Path, names: Sequence[str], spec: Preprocessing) -> str:
    hasher = hashlib.sha256(msgspec.json.encode(spec))
    for name in names:
        try:
            found = (root / name).stat()
            hasher.update(f"{name}\0{found.st_size}\0{found.st_mtime_ns}\n".encode(errors="surrogateescape"))
        except OSError:
            hasher.update(f"{name}\0gone\n".encode(errors="surrogateescape"))
    return hasher.hexdigest()[:32]


def _prepare(root: Path, names: list[str], spec: Preprocessing, target: Path) -> int:
    records = [_record(root, name, spec) for name in names]
    part = target.with_suffix(f".part{os.getpid()}")
    part.write_bytes(msgspec.msgpack.encode(records))
    part.replace(target)
    return len(names)


def _record(root: Path, name: str, spec: Preprocessing) -> Record:
    try:
        data = (root / name).read_bytes()
        gray = to_gray(decode(data), spec)
    except OSError as error:
        return Record(name, problem=error.strerror or str(error))
    except ImageError as error:
        return Record(name, problem=str(error))
    image = Image.fromarray(gray)
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=4)
    thumb = image.resize((THUMB, THUMB), Image.Resampling.BOX).tobytes()
    pixels = hashlib.sha256(np.ascontiguousarray(gray).tobytes()).hexdigest()
    return Record(name, None, hashlib.sha256(data).hexdigest(), pixels, thumb, out.getvalue())
