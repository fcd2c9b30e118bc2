"""The real agent with one fault in it, which strikes once: run by test_watchdog.py.

Usage: stuck_agent.py FAULT MARK --config FILE …     the fault strikes while the file MARK is there, and takes it away
"""

from __future__ import annotations

import ctypes
import sys
import threading
from pathlib import Path
from typing import Any

from agent.app.condition import Condition
from agent.cli.main import main
from agent.ledger import Ledger
from agent.model.session import OnnxModel


def _waits() -> None:
    """Like a driver that never answers."""
    threading.Event().wait()


def _holds_the_interpreter() -> None:
    """Like a native library with a deadlock: no other thread of the process gets to run any more."""
    ctypes.PyDLL(None).sleep(3600)


FAULTS: dict[str, tuple[type, str, Any]] = {
    "inference": (OnnxModel, "judge", _waits),
    "commit": (Ledger, "commit", _waits),
    "main": (Condition, "watch_space", _waits),
    "interpreter": (OnnxModel, "judge", _holds_the_interpreter),
}


def _strike(fault: str, mark: Path) -> None:
    kind, name, sticks = FAULTS[fault]
    real = getattr(kind, name)

    def faulty(*arguments: Any, **named: Any) -> Any:
        # The self-test at the start judges in the main thread; the fault is for frames of the line.
        if mark.exists() and (fault == "main" or threading.current_thread().name == "inspector"):
            mark.unlink()
            sticks()
        return real(*arguments, **named)

    setattr(kind, name, faulty)


if __name__ == "__main__":
    fault, mark, *options = sys.argv[1:]
    _strike(fault, Path(mark))
    sys.exit(main(["run", *options]))
