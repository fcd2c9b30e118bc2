"""One answer in two forms: a line for a person, an object for a machine."""

from __future__ import annotations

import argparse
import json
from typing import Any


def answer(options: argparse.Namespace, values: dict[str, Any], text: str, code: int = 0) -> int:
    """Print it, by ``--json``; the exit code."""
    print(json.dumps(values) if options.json else text)
    return code
