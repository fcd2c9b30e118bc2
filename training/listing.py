"""What frames there are: the Kaggle layout, a folder per class, or a CSV, as one list. No frame is opened here.

    Kaggle            <data>/train/train.json  (and test/test.json)   {"<folder>/<frame>.png": class number}
    folder per class  <data>/<class>/<recording>/<frame>.png          class: a number or a name of the recipe's classes
    CSV               <data>.csv or one in <data>                     columns path,label,recording

Invariants: every label is one of the recipe's classes; every frame has a recording; the list is sorted by path. A frame
that is listed but missing, or lies beside the list without a label, is reported and never taken.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.errors import UsageError
from training.synthetic import NOTE

_STAMP = re.compile(r"\d{6}-\d{6}")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".pgm")


@dataclass(frozen=True)
class Item:
    """One labelled frame that exists: `name` relative to the data's root, with '/'; `given` is the set's own split."""

    name: str
    kind: int  #: number of the original class
    recording: str
    given: str = "train"


@dataclass
class Listing:
    """All of a data set's frames, and what was found wrong with the lists."""

    root: Path
    layout: str
    items: list[Item]
    missing: list[str] = field(default_factory=list)  #: labelled, but no such file
    unlabelled: int = 0  #: image files without a label
    note: str | None = None  #: the text that says the frames are synthetic

    @property
    def synthetic(self) -> bool:
        """Whether the set says of itself that it is drawn, not recorded."""
        return self.note is not None


def read_listing(data: Path, classes: Sequence[str]) -> Listing:
    """List the frames of `data`, a folder or a CSV file.

    Raises UsageError in one line for a folder of no known layout, a broken list, or a label outside `classes`.
    """
    if data.is_file() and data.suffix.lower() == ".csv":
        listing = _from_csv(data, classes)
    elif not data.is_dir():
        raise UsageError(f"{data}: no such folder or CSV file; give the folder with train/train.json")
    elif (data / "train" / "train.json").is_file() or (data / "train.json").is_file():
        listing = _from_kaggle(data, classes)
    elif tables := sorted(data.glob("*.csv")):
        if len(tables) > 1:
            raise UsageError(f"{data}: {len(tables)} CSV files; give the path of the one to use")
        listing = _from_csv(tables[0], classes)
    else:
        listing = _from_folders(data, classes)
    if not listing.items:
        raise UsageError(f"{data}: {len(listing.missing)} frames are listed and none of them exists; check the folder")
    listing.items.sort(key=lambda item: item.name)
    note = listing.root / NOTE
    listing.note = note.read_text(encoding="utf-8") if note.is_file() else None
    return listing


def recording_of(folder: str) -> str:
    """The recording that a folder (or file) belongs to: its time stamp YYMMDD-HHMMSS, so that parts stay together, or
    the whole name where there is none.
    """
    match = _STAMP.match(Path(folder).name)
    return match.group() if match else folder


def _from_kaggle(data: Path, classes: Sequence[str]) -> Listing:
    listing = Listing(data, "kaggle", [])
    lists = [("train", data / "train" / "train.json"), ("test", data / "test" / "test.json")]
    if not lists[0][1].is_file():
        lists = [("train", data / "train.json")]
    for given, file in lists:
        if not file.is_file():
            continue
        folder = file.parent.relative_to(data).as_posix()
        prefix = "" if folder == "." else f"{folder}/"
        present = {f"{prefix}{name}" for name in _images(file.parent)}
        labels = _labels(file)
        for name, label in labels.items():
            kind = _class_number(label, classes, f"{file}: {name}")
            _add(listing, present, Item(f"{prefix}{name}", kind, recording_of(name.rpartition("/")[0] or name), given))
        listing.unlabelled += len(present) - sum(f"{prefix}{name}" in present for name in labels)
    return listing


def _labels(file: Path) -> dict[str, object]:
    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        labels = dict(pairs)
        if len(labels) != len(pairs):
            raise UsageError(f"{file}: a frame is listed twice; keep one label for each")
        return labels

    try:
        labels = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=once)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{file}: not JSON ({error}); it maps frames to class numbers") from None
    if not isinstance(labels, dict):
        raise UsageError(f'{file}: found a {type(labels).__name__}; it is a mapping {{"<folder>/<frame>.png": class}}')
    return labels


def _from_csv(table: Path, classes: Sequence[str]) -> Listing:
    root = table.parent
    listing = Listing(root, "csv", [])
    present: set[str] = set(_images(root))
    wanted = {"path", "label", "recording"}
    try:
        with table.open(newline="", encoding="utf-8-sig") as lines:
            rows = csv.DictReader(lines)
            if not wanted <= set(rows.fieldnames or ()):
                raise UsageError(f"{table}: columns {', '.join(rows.fieldnames or [])}; needed: path,label,recording")
            seen: set[str] = set()
            for row in rows:
                where = f"{table}: line {rows.line_num}"
                name, recording = (row["path"] or "").strip(), (row["recording"] or "").strip()
                if not name or not recording:
                    raise UsageError(f"{where}: path and recording must not be empty")
                name = Path(os.path.normpath(name)).as_posix()
                if name in seen:
                    raise UsageError(f"{where}: {name} is listed twice; keep one label for each")
                seen.add(name)
                kind = _class_number((row["label"] or "").strip(), classes, where)
                _add(listing, present, Item(name, kind, recording))
            listing.unlabelled = len(present - seen)
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{table}: not a CSV in UTF-8 ({error})") from None
    return listing


def _from_folders(data: Path, classes: Sequence[str]) -> Listing:
    listing = Listing(data, "folder per class", [])
    folders = sorted(one for one in data.iterdir() if one.is_dir() and not one.name.startswith("."))
    if not folders:
        raise UsageError(f"{data}: no train/train.json, no CSV (path,label,recording), no folder per class in it")
    for folder in folders:
        kind = _class_number(folder.name, classes, str(folder))
        for name in _images(folder):
            parent, _, file = name.rpartition("/")
            if not parent and not _STAMP.match(file):
                raise UsageError(
                    f"{folder / file}: which recording is it of? Put each recording's frames in a folder of its own "
                    f"({folder.name}/<recording>/), or list them in a CSV (path,label,recording)"
                )
            listing.items.append(Item(f"{folder.name}/{name}", kind, recording_of(parent or file)))
    if not listing.items:
        raise UsageError(f"{data}: no image in the class folders ({', '.join(one.name for one in folders)})")
    return listing


def _add(listing: Listing, present: set[str], item: Item) -> None:
    # A list may name files outside the folder ("../"): those are looked up one by one.
    if item.name in present or (listing.root / item.name).is_file():
        listing.items.append(item)
    else:
        listing.missing.append(item.name)


def _images(folder: Path) -> Iterator[str]:
    """Image files below `folder`, relative, with '/', sorted."""
    for parent, folders, files in os.walk(folder):
        folders.sort()
        inside = Path(parent).relative_to(folder).as_posix()
        prefix = "" if inside == "." else f"{inside}/"
        yield from (f"{prefix}{one}" for one in sorted(files) if one.lower().endswith(_SUFFIXES) and one[0] != ".")


def _class_number(label: object, classes: Sequence[str], where: str) -> int:
    """A label as a number: 3, "3", or a class's name, in any case and with '_' or '-' for ' '."""
    allowed = ", ".join(f"{number} {name}" for number, name in enumerate(classes))
    number: int | None = None
    if isinstance(label, int) and not isinstance(label, bool):
        number = label
    elif isinstance(label, str):
        plain = re.sub(r"[_\s-]+", " ", label).strip().lower()
        names = [name.lower() for name in classes]
        number = int(plain) if re.fullmatch(r"[0-9]{1,3}", plain) else names.index(plain) if plain in names else None
    if number is None or not 0 <= number < len(classes):
        raise UsageError(f"{where}: class {label!r} is none of the recipe's: {allowed}")
    return number
