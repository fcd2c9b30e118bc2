"""What each command needs beside the agent's own libraries, looked for before any work is done.

Invariant: nothing is imported here. Who lacks a library learns it at once, not after an hour of reading frames.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec

from agent.errors import UsageError

_FIT = ("tensorflow", "keras", "sklearn")
_EXPORT = ("tensorflow", "keras", "tf2onnx", "onnx")
_REPORT = ("matplotlib",)
_NEEDED = {
    "train": _FIT,
    "export": _EXPORT,
    "bundle": (*_EXPORT, *_REPORT),
    "all": (*_FIT, *_EXPORT, *_REPORT),
}


def check(options: argparse.Namespace) -> None:
    """Raises UsageError in one line where a library that the command line asks for is not installed."""
    needed = set(_NEEDED.get(options.command, ()))
    if options.command == "evaluate":
        needed = {*(_FIT if options.folds else ()), *(_REPORT if options.out else ())}
    missing = sorted(name for name in needed if find_spec(name) is None)
    if missing:
        what = "TensorFlow" if {"tensorflow", "keras"} & set(missing) else "its training libraries"
        raise UsageError(
            f"{options.command} needs {what} (not installed: {', '.join(missing)}): make training, or "
            "pip install 'weldwatch[training]'"
        )
