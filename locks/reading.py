"""The lock files as data, and what installed packages say of their licence.

A lock file is one package an entry: ``name==version ; marker`` and a line for each hash. Whatever else stands in it
(an address, a path, a version that is not exact) is an error: ``ValueError`` names file and line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
_ENTRY = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9.-]*)==(?P<version>[0-9][\w.+!-]*)(?: ; (?P<marker>[^\\]+?))?"
    r"(?P<hashes>(?: \\\n    --hash=sha256:[0-9a-f]{64})+)"
)


@dataclass(frozen=True)
class Locked:
    """One package of a lock file."""

    name: str
    version: str
    marker: str | None
    hashes: tuple[str, ...]  #: SHA-256 of each artefact that may be installed, hex


def read(name: str, python: str) -> list[Locked]:
    """The packages of one set for one Python."""
    path = HERE / f"{name}-{python}.txt"
    found = []
    for entry in re.split(r"\n(?=\S)", path.read_text(encoding="utf-8").strip()):
        if entry.startswith("#"):
            continue
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise ValueError(f"{path.name}: not one exact version with its hashes: {entry.splitlines()[0]}")
        hashes = tuple(re.findall(r"sha256:([0-9a-f]{64})", match["hashes"]))
        found.append(Locked(match["name"], match["version"], match["marker"], hashes))
    return found


def installed(one: Locked) -> metadata.PackageMetadata | None:
    """What the package says of itself, if this very version is installed here."""
    try:
        about = metadata.metadata(one.name)
    except metadata.PackageNotFoundError:
        return None
    return about if about["Version"] == one.version else None


def licence(about: metadata.PackageMetadata) -> tuple[str, bool]:
    """What it says its licence is, and whether that is an SPDX expression. Classifiers and free words are not."""
    if expression := about.get("License-Expression"):
        return str(expression), True
    told = [line.rpartition(" :: ")[2] for line in about.get_all("Classifier") or [] if line.startswith("License ::")]
    words = str(about.get("License") or "").strip()  # some put the whole text there; its first line is its name
    return "; ".join(told) or words.partition("\n")[0].strip(), False
