"""`prepare`: from recordings as they come off the camera to a set for two classes, split by recording.

list ─▶ read every frame once (frames.py) ─▶ drop exact repeats ─▶ split by recording ─▶ drop near repeats across sides
     ─▶ take the quotas ─▶ write frames, contact sheet, and last dataset.json

Invariants: nothing is left out silently: what could not be read, found or taken stands in dataset.json and is said.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.clock import Clock, SystemClock, iso_utc
from agent.errors import UsageError
from training import contact, duplicates, splitting
from training.dataset import INDEX, DatasetIndex, FrameFacts, Shortfalls, is_prepared, read_index, set_digest
from training.frames import Progress, Record, prepare_frames, read_chunk
from training.listing import Item, Listing, read_listing
from training.recipe import Recipe

FEW_RECORDINGS = 10  #: fewer leave two or so for the test
_WORK = ".frames"
_LEAKY = (
    "split by frame: neighbouring frames of a recording lie in train and test, so every figure will be better than "
    "what holds on the line; for comparison only"
)


@dataclass(frozen=True)
class _Pool:
    """The readable frames, with what is kept of each."""

    items: list[Item]
    records: list[Record]  #: without their PNG
    thumbs: NDArray[np.uint8]  #: [n, d]


def prepare(
    data: Path,
    out: Path,
    recipe: Recipe,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
    clock: Clock | None = None,
) -> DatasetIndex:
    """Prepare `data` (any layout of `listing`) into the folder `out`; the same request a second time is already done.

    An interrupted run goes on. Raises UsageError in one line where the data cannot make an honest set.
    """
    listing = read_listing(data, recipe.classes)
    request = _request(listing, recipe)
    if is_prepared(out):
        index = read_index(out)
        if index.request == request:
            return index
        raise UsageError(f"{out}: holds a set prepared from something else; name a new folder, or remove it")
    _check_classes(listing.items, recipe)
    chunks = prepare_frames(
        listing.root,
        [item.name for item in listing.items],
        recipe.data.preprocessing,
        out / _WORK,
        workers=workers,
        progress=progress,
    )
    pool, unreadable = _readable(listing, chunks)
    warnings = _warn_of_lists(listing, unreadable, recipe)
    repeats = duplicates.exact(
        [item.name for item in pool.items], [item.kind for item in pool.items], [r.pixels for r in pool.records]
    )
    pool = _without(pool, repeats)
    chosen, near, shortfalls, went_short = _choose(pool, recipe)
    frames = [_facts(item, record, side, recipe) for item, record, side in chosen]
    _write(out, chunks, frames)
    index = DatasetIndex(
        created_at=iso_utc((clock or SystemClock()).now()), request=request, synthetic=listing.synthetic,
        note=listing.note, layout=listing.layout, classes=recipe.classes, good=recipe.good, split=recipe.data.split,
        seed=recipe.seed, preprocessing=recipe.data.preprocessing, digest=set_digest(frames),
        available=len(listing.items), warnings=warnings + went_short + _warn_of_repeats(repeats, near),
        shortfalls=shortfalls,
        unreadable=[{"source": r.name, "problem": r.problem or ""} for r in unreadable], missing=listing.missing,
        duplicates=[{"name": one.name, "of": one.of, "why": one.why} for one in (*repeats, *near)], frames=frames,
    )  # fmt: skip
    contact.sheet(out, index).save(out / "contact-sheet.png")
    part = out / f"{INDEX}.part"
    part.write_bytes(msgspec.json.format(msgspec.json.encode(index), indent=1))
    part.replace(out / INDEX)
    shutil.rmtree(out / _WORK)
    return index


def _request(listing: Listing, recipe: Recipe) -> str:
    hasher = hashlib.sha256(msgspec.json.encode([recipe.data, recipe.seed, recipe.classes, recipe.good]))
    for item in listing.items:
        found = (listing.root / item.name).stat()
        hasher.update(f"{item}\0{found.st_size}\0{found.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return hasher.hexdigest()


def _check_classes(items: Sequence[Item], recipe: Recipe) -> None:
    recordings = {item.recording for item in items}
    if recipe.data.split != "frame" and len(recordings) < 3:
        raise UsageError(
            f"{len(recordings)} recording(s) ({', '.join(sorted(recordings))}): train, val and test need one each at "
            "least, better ten; record more, or name recordings in a CSV (path,label,recording)"
        )
    counts = Counter(item.kind for item in items)
    for wanted, what in ((True, "good"), (False, "defective")):
        kinds = [kind for kind in range(len(recipe.classes)) if (kind in recipe.good) == wanted]
        if not any(counts[kind] for kind in kinds):
            names = ", ".join(f"{kind} {recipe.classes[kind]}" for kind in kinds)
            raise UsageError(f"class {names}: no frame; a model needs good and defective frames, add some {what} ones")


def _readable(listing: Listing, chunks: Sequence[Path]) -> tuple[_Pool, list[Record]]:
    items = iter(listing.items)
    kept, records, unreadable = [], [], []
    for chunk in chunks:
        for record in read_chunk(chunk):
            item = next(items)
            if record.problem is not None:
                unreadable.append(record)
                continue
            kept.append(item)
            records.append(msgspec.structs.replace(record, png=b""))
    if not kept:
        first = unreadable[0]
        raise UsageError(f"{listing.root}: none of {len(unreadable)} frames can be read; {first.name}: {first.problem}")
    return _Pool(kept, records, np.stack([np.frombuffer(r.thumb, np.uint8) for r in records])), unreadable


def _without(pool: _Pool, dropped: Sequence[duplicates.Duplicate]) -> _Pool:
    names = {one.name for one in dropped}
    keep = [position for position, item in enumerate(pool.items) if item.name not in names]
    return _Pool([pool.items[at] for at in keep], [pool.records[at] for at in keep], pool.thumbs[keep])


def _choose(
    pool: _Pool, recipe: Recipe
) -> tuple[list[tuple[Item, Record, str]], list[duplicates.Duplicate], Shortfalls, list[str]]:
    """Sides, near repeats across them, and the frames taken; what is short of the quotas, and a line that says so."""
    kinds = np.array([item.kind for item in pool.items])
    totals = np.bincount(kinds, minlength=len(recipe.classes))
    quotas = (recipe.data.train, recipe.data.val, recipe.data.test)
    wanted = splitting.wanted_frames(totals, quotas, recipe.good)
    sides = _sides(pool, kinds, wanted, recipe)
    names = [splitting.SPLITS[side] for side in sides]
    near: list[duplicates.Duplicate] = []
    if recipe.data.split != "frame" and recipe.data.near_duplicate < 1:
        near = duplicates.near([item.name for item in pool.items], names, pool.thumbs, recipe.data.near_duplicate)
    dropped = {one.name for one in near}
    usable = np.array([item.name not in dropped for item in pool.items])
    chosen: list[int] = []
    shortfalls: Shortfalls = {}
    for side, split in enumerate(splitting.SPLITS):
        for kind in np.flatnonzero(wanted[side]):
            here = np.flatnonzero((sides == side) & (kinds == kind) & usable)
            quota = len(here) if quotas[side] is None else round(wanted[side, kind])
            taken = splitting.pick([pool.items[at].recording for at in here], quota)
            chosen += [int(here[at]) for at in taken]
            if len(taken) < quota:
                shortfalls.setdefault(recipe.classes[kind], {})[split] = (len(taken), quota)
        _check_side(split, kinds[[at for at in chosen if sides[at] == side]], pool, recipe)
    short = _went_short(shortfalls, [(pool.items[at].recording, names[at]) for at in chosen], recipe)
    return [(pool.items[at], pool.records[at], names[at]) for at in sorted(chosen)], near, shortfalls, short


def _went_short(shortfalls: Shortfalls, chosen: Sequence[tuple[str, str]], recipe: Recipe) -> list[str]:
    if not shortfalls:
        return []
    kinds = len(shortfalls)
    said = f"fewer frames than the recipe wants, in {kinds} class{'es' if kinds > 1 else ''}"
    if recipe.data.split != "frame":
        counts = Counter(split for _, split in set(chosen))
        shown = ", ".join(f"{split} {counts[split]}" for split in splitting.SPLITS)
        said += f"; recordings are split about 60/20/20 where they do not fill the quotas: {shown} recordings"
    return [said]


def _sides(pool: _Pool, kinds: NDArray[np.int64], wanted: NDArray[np.float64], recipe: Recipe) -> NDArray[np.int64]:
    rng = np.random.default_rng(np.random.SeedSequence([recipe.seed, 17]))
    if recipe.data.split == "frame":
        return splitting.by_frame(kinds, wanted, rng)
    recordings, member = np.unique([item.recording for item in pool.items], return_inverse=True)
    counts = np.zeros((len(recordings), len(recipe.classes)), dtype=np.int64)
    np.add.at(counts, (member, kinds), 1)
    fixed = np.full(len(recordings), -1)
    if recipe.data.split == "given":
        given = np.array([item.given == "test" for item in pool.items])
        if not given.any():
            raise UsageError("split: given, but the data has no test/test.json; use split: recording")
        # A recording that lies in the set's own train and test belongs to test: it must not teach.
        fixed[np.unique(member[given])] = 2
        wanted = wanted.copy()
        wanted[2] = 0
    wanted = splitting.within_reach(wanted, counts[fixed < 0].sum(axis=0))
    return splitting.by_recording(counts, wanted, fixed, rng, recipe.good)[member]


def _check_side(split: str, kinds: NDArray[np.int64], pool: _Pool, recipe: Recipe) -> None:
    bad = ~np.isin(kinds, recipe.good)
    for present, what, wanted in ((bad.any(), "defective", False), ((~bad).any(), "good", True)):
        if present:
            continue
        holders = {item.recording for item in pool.items if (item.kind in recipe.good) == wanted}
        raise UsageError(
            f"{split}: no {what} frame; only {len(holders)} recording(s) have any, and train, val and test need one "
            "each at least; record more"
        )


def _warn_of_lists(listing: Listing, unreadable: Sequence[Record], recipe: Recipe) -> list[str]:
    warnings = [_LEAKY] if recipe.data.split == "frame" else []
    if listing.missing:
        warnings.append(f"{len(listing.missing)} labelled frames do not exist, the first is {listing.missing[0]}")
    if listing.unlabelled:
        warnings.append(f"{listing.unlabelled} image files have no label and were left out")
    if unreadable:
        first = unreadable[0]
        warnings.append(f"{len(unreadable)} frames cannot be read, the first is {first.name}: {first.problem}")
    warnings += _warn_of_recordings(listing.items, recipe)
    both = {i.recording for i in listing.items if i.given == "test"} & {
        i.recording for i in listing.items if i.given == "train"
    }
    if both:
        warnings.append(f"{len(both)} recordings lie in the set's own train and test, the first is {min(both)}")
    return warnings


def _warn_of_recordings(items: Sequence[Item], recipe: Recipe) -> list[str]:
    """What so few recordings cannot teach, or cannot prove."""
    warnings = []
    for kind, name in enumerate(recipe.classes):
        holders = sorted({item.recording for item in items if item.kind == kind})
        if not holders:
            warnings.append(f"class {kind} {name}: no frame; the model will not have seen one")
        elif len(holders) == 1 and recipe.data.split != "frame":
            warnings.append(
                f"class {kind} {name}: only in recording {holders[0]}; it can be taught or measured, not both"
            )
    recordings = len({item.recording for item in items})
    if recordings < FEW_RECORDINGS:
        warnings.append(
            f"{recordings} recordings in all; with fewer than {FEW_RECORDINGS} the intervals say next to nothing"
        )
    return warnings


def _warn_of_repeats(exact: Sequence[duplicates.Duplicate], near: Sequence[duplicates.Duplicate]) -> list[str]:
    warnings = []
    if exact:
        warnings.append(f"{len(exact)} frames repeat another exactly and were left out")
    if near:
        warnings.append(f"{len(near)} frames nearly repeat one on the other side of the split and were left out")
    return warnings


def _facts(item: Item, record: Record, side: str, recipe: Recipe) -> FrameFacts:
    label = 0 if item.kind in recipe.good else 1
    stem = Path(item.name).with_suffix("").as_posix().replace("/", "__").replace("\\", "_").lstrip(".")
    plain = "".join(c if c.isprintable() else "_" for c in stem.encode(errors="replace").decode())
    # The digest keeps names apart that would be the same, or too long for a file system.
    tail = hashlib.sha256(item.name.encode(errors="surrogateescape")).hexdigest()[:8]
    name = f"{plain.encode()[:180].decode(errors='ignore')}-{tail}.png"
    return FrameFacts(
        f"{side}/{label}/{name}", side, label, item.kind, item.recording, item.name, record.sha256, record.pixels
    )


def _write(out: Path, chunks: Sequence[Path], frames: Sequence[FrameFacts]) -> None:
    for side in splitting.SPLITS:
        shutil.rmtree(out / side, ignore_errors=True)
        for label in (0, 1):
            (out / side / str(label)).mkdir(parents=True)
    targets = {frame.source: frame.file for frame in frames}
    for chunk in chunks:
        for record in read_chunk(chunk):
            if record.name in targets:
                (out / targets[record.name]).write_bytes(record.png)
