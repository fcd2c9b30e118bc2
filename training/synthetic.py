"""Synthetic recordings on disk, in the layout of the public aluminium set, from the scenes of the demo camera.

    <directory>/SYNTHETIC.txt                                   says what this is, and how it was made
    <directory>/train/train.json                                {"<folder>/frame_NNNNN.png": class}
    <directory>/train/170904-141730-Al 2mm-part2/frame_NNNNN.png  gray, 8 bits

The first 13 characters of a folder's name are the recording; its parts follow one another in time and carry one class
each: good parts and one to three kinds of defect. Invariants: the same arguments give the same files, byte for byte,
whatever the number of workers; the mapping is written last, so a set with a mapping is complete.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image

from agent.demo.scene import KINDS, SIZE, recording, render
from agent.errors import UsageError

NOTE = "SYNTHETIC.txt"
_DEFECTS = len(KINDS) - 1
# Level 1 of zlib: noise does not compress better, and level 6 takes three times as long.
_COMPRESS_LEVEL = 1


@dataclass(frozen=True)
class Part:
    """One folder: consecutive frames `first` … `first + frames - 1` of one recording with one class `kind`."""

    split: str
    folder: str
    seed: int
    kind: int
    first: int
    frames: int

    def names(self) -> list[str]:
        """The frames' paths relative to the split's folder."""
        return [f"{self.folder}/frame_{self.first + n:05d}.png" for n in range(self.frames)]


@dataclass(frozen=True)
class Summary:
    """What was written: recordings and frames, the frames of each kind by name, and the seconds it took."""

    directory: Path
    recordings: int
    frames: int
    kinds: dict[str, int]
    seconds: float


def plan(recordings: int, frames: int, *, seed: int = 0, split: str = "train", offset: int = 0) -> list[Part]:
    """The parts of `recordings` recordings of `frames` frames each; numbers from `offset` keep two splits apart.

    About half the frames are good. The kinds of defect are dealt from shuffled decks, so each comes equally often.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, 7, offset]))
    deck: list[int] = []
    parts: list[Part] = []
    clock = datetime(2017, 8, 14, 9, 12, 5) + timedelta(days=2 * offset)
    for number in range(offset, offset + recordings):
        clock += timedelta(minutes=float(rng.uniform(4, 90)), seconds=float(rng.uniform(0, 60)))
        if clock.hour >= 17:
            clock = clock.replace(hour=8) + timedelta(days=1)
        kinds: list[int] = []
        wanted = min(int(rng.integers(1, 4)), max(1, frames - 1))
        while len(kinds) < wanted:
            if not deck:
                deck = [int(kind) for kind in rng.permutation(np.arange(1, _DEFECTS + 1))]
            kinds.append(deck.pop() if deck[-1] not in kinds else deck.pop(0))
        scene = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        name = f"{clock:%y%m%d-%H%M%S}-Al {rng.choice(['2mm', '3mm', '4mm'])}"
        parts += _parts(rng, split, name, scene, sorted(set(kinds)), frames)
    return parts


def _parts(
    rng: np.random.Generator, split: str, name: str, scene: int, kinds: list[int], frames: int
) -> Iterator[Part]:
    """Good and bad stretches of one recording in shuffled order, with frames between them that nobody labelled."""
    good = max(1, frames // 2)
    stretches = [(0, good)] if good < 8 or rng.random() < 0.4 else [(0, good // 2), (0, good - good // 2)]
    shares = np.full(len(kinds), (frames - good) // len(kinds))
    shares[: (frames - good) % len(kinds)] += 1
    stretches += [(kind, int(share)) for kind, share in zip(kinds, shares, strict=True) if share]
    first = int(rng.integers(40, 700))
    for piece, place in enumerate(rng.permutation(len(stretches))):
        kind, count = stretches[int(place)]
        folder = name if len(stretches) == 1 else f"{name}-part{piece + 1}"
        yield Part(split, folder, scene, kind, first, count)
        first += count + int(rng.integers(15, 160))


def synthesize(
    directory: Path,
    *,
    recordings: int,
    frames: int,
    seed: int = 0,
    size: tuple[int, int] = SIZE,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    test_recordings: int = 0,
) -> Summary:
    """Write `recordings` synthetic recordings of `frames` frames under `directory`/train, gray PNG of `size` (w, h).

    `test_recordings` further ones go to `directory`/test. `workers` processes draw (default: the processors at hand);
    `progress(done, total)` is told of frames. Raises UsageError for numbers below 1, or a directory that has a set
    already; OSError when the disk refuses.
    """
    _refuse(directory, recordings, frames, size, test_recordings)
    started = time.monotonic()
    parts = plan(recordings, frames, seed=seed)
    parts += plan(test_recordings, frames, seed=seed, split="test", offset=recordings)
    for part in parts:
        (directory / part.split / part.folder).mkdir(parents=True, exist_ok=True)
    _write_note(directory, recordings + test_recordings, frames, seed, size)
    total, done = sum(part.frames for part in parts), 0
    for written in _draw_all(directory, parts, size, workers or len(os.sched_getaffinity(0))):
        done += written
        if progress is not None:
            progress(done, total)
    for split in ("train", "test") if test_recordings else ("train",):
        labels = {name: part.kind for part in parts if part.split == split for name in part.names()}
        (directory / split / f"{split}.json").write_text(json.dumps(labels, indent=0) + "\n", encoding="utf-8")
    counts = Counter(kind for part in parts for kind in [part.kind] * part.frames)
    kinds = {name: counts[kind] for kind, name in enumerate(KINDS)}
    return Summary(directory, recordings + test_recordings, total, kinds, time.monotonic() - started)


def _refuse(directory: Path, recordings: int, frames: int, size: tuple[int, int], test_recordings: int) -> None:
    if recordings < 1 or frames < 2 or test_recordings < 0:
        raise UsageError(f"{recordings} recordings of {frames} frames: at least 1 recording of 2 frames is needed")
    if min(size) < 16:
        raise UsageError(f"size {size[0]}x{size[1]}: at least 16 pixels each way")
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory}: is a file; name a folder to write the set to")
    if directory.is_dir() and any(directory.iterdir()):
        raise UsageError(f"{directory}: not empty; name a new folder, so that two sets do not mix")


def _draw_all(directory: Path, parts: list[Part], size: tuple[int, int], workers: int) -> Iterator[int]:
    """Draw every part; yields the number of frames as recordings get done.

    A recording's still layers cost as much as several frames, so all its parts are one job. Spawned processes inherit
    neither threads nor locks.
    """
    together = groupby(parts, key=lambda part: (part.split, part.seed))
    jobs = [(directory / split, list(group), size) for (split, _), group in together]
    if workers == 1:
        for job in jobs:
            yield _draw(*job)
        return
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=multiprocessing.get_context("spawn")) as pool:
        pending = [pool.submit(_draw, *job) for job in jobs]
        try:
            for future in as_completed(pending):
                yield future.result()
        finally:
            for future in pending:
                future.cancel()


def _draw(root: Path, parts: list[Part], size: tuple[int, int]) -> int:
    for part in parts:
        scene = recording(part.seed)
        for number, name in enumerate(part.names(), start=part.first):
            picture = Image.fromarray(render(scene, part.kind, number, size))
            picture.save(root / name, compress_level=_COMPRESS_LEVEL)
    return sum(part.frames for part in parts)


def _write_note(directory: Path, recordings: int, frames: int, seed: int, size: tuple[int, int]) -> None:
    (directory / NOTE).write_text(
        "SYNTHETIC weld frames, drawn by weldwatch. They are no recordings of real welding, and a figure measured on\n"
        "them says nothing of real welds.\n\n"
        f"recordings: {recordings}\nframes a recording: {frames}\nseed: {seed}\nsize: {size[0]}x{size[1]}\n"
        f"classes: {', '.join(f'{kind} {name}' for kind, name in enumerate(KINDS))}\n",
        encoding="utf-8",
    )
