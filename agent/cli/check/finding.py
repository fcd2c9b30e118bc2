"""What a check found, and how it is shown."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

State = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    """One thing that was tried. ``failed``: the station does not do its work so; ``warning``: it does, until …"""

    name: str
    state: State
    detail: str
    remedy: str = ""


def show(finding: Finding) -> None:
    """One line on stdout."""
    from agent.logs import printable

    mark = {"ok": "ok     ", "warning": "warning", "failed": "FAILED "}[finding.state]
    colour = {"ok": "32", "warning": "33", "failed": "31"}[finding.state]
    if sys.stdout.isatty():
        mark = f"\x1b[{colour}m{mark}\x1b[0m"
    remedy = f" → {finding.remedy}" if finding.remedy else ""
    print(mark, printable(f"{finding.name}: {finding.detail}{remedy}"), sep="  ", flush=True)


def nearest(folder: Path) -> Path:
    """The folder, or of those it lies in the first that is there (as far as we may see)."""
    return next(parent for parent in (folder, *folder.absolute().parents) if is_there(parent))


def is_there(path: Path) -> bool:
    """Whether it is there; what lies in a folder that is closed to us counts as not there."""
    try:
        return path.exists()
    except OSError:
        return False


def is_folder(path: Path) -> bool:
    """The same of a folder."""
    try:
        return path.is_dir()
    except OSError:
        return False
