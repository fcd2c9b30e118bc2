"""Reviewed labels: what a person says of frames, by ``result_id``, by SHA-256 of the image, or by its name.

    result_id,label            or  sha256,label       or  image,label
    01a2038d-…,NotOK

Invariants: a label is ``OK`` or ``NotOK``; two that contradict each other are an error, not a choice; a name that
several frames have labels all of them, and is counted.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Literal, cast

from agent.errors import UsageError

Label = Literal["OK", "NotOK"]
_KEYS = ("result_id", "sha256", "image")
_LABELS = ("OK", "NotOK")


class Labels:
    """Labels from a CSV file (comma or semicolon, UTF-8), asked for frame by frame."""

    def __init__(self, file: Path) -> None:
        """``UsageError`` names file and line."""
        self._labels: dict[str, Label] = {}
        self._met: dict[str, set[str]] = {}
        try:
            with file.open(encoding="utf-8-sig", newline="") as opened:
                self._read(file, opened.read())
        except OSError as error:
            raise UsageError(f"{file}: {error.strerror}; give a CSV of reviewed labels") from None
        except (UnicodeDecodeError, csv.Error) as error:
            raise UsageError(f"{file}: not a CSV in UTF-8 ({error})") from None

    def _read(self, file: Path, text: str) -> None:
        delimiter = ";" if ";" in text.partition("\n")[0] else ","
        rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
        key = next((one for one in _KEYS if one in (rows.fieldnames or ())), None)
        if key is None or "label" not in (rows.fieldnames or ()):
            found = ", ".join(rows.fieldnames or ()) or "nothing"
            raise UsageError(f"{file}: the first line has {found}; it must name label and one of {', '.join(_KEYS)}")
        self.by = key
        for row in rows:
            name, label = (row[key] or "").strip(), (row["label"] or "").strip()
            if not label:  # not reviewed yet
                continue
            if label not in _LABELS or not name:
                raise UsageError(f"{file}: line {rows.line_num}: found {name!r}, {label!r}; a label is OK or NotOK")
            if self._labels.setdefault(name, cast(Label, label)) != label:
                raise UsageError(f"{file}: line {rows.line_num}: {name} is labelled OK and NotOK; decide for one")
        if not self._labels:
            raise UsageError(f"{file}: no line has a label")

    def of(self, result_id: str, sha256: str | None, image: str) -> Label | None:
        """What is said of this frame."""
        name = {"result_id": result_id, "sha256": sha256, "image": image}[self.by]
        label = self._labels.get(name) if name is not None else None
        if label is not None and name is not None:
            self._met.setdefault(name, set()).add(result_id)
        return label

    def unmet(self) -> int:
        """Labels of frames that were not asked for."""
        return len(self._labels) - len(self._met)

    def ambiguous(self) -> int:
        """Names that several frames have: a ``result_id`` would tell them apart."""
        return sum(len(results) > 1 for results in self._met.values()) if self.by == "image" else 0
