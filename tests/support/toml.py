"""TOML on every Python: the standard library reads it from 3.11 on, before that a package that pytest brings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def load(path: Path) -> dict[str, Any]:
    """The file as plain data."""
    return tomllib.loads(path.read_text(encoding="utf-8"))
