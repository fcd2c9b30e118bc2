"""What judges on a station at this moment, as the running agent says it: for the command line beside it.

    <state>/bundles/judging.json     one JSON object, written by the agent in place, locked (flock) as long as it lives

Invariants: whoever finds the lock free knows that no agent runs and that the file tells of the past; a file that cannot
be written stops nothing, since it only informs.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import msgspec

from agent.logs import log

_NAME = "judging.json"
_MOST = 64 * 1024
_TORN_S = 0.5  #: so long a reader tries again a file that is being written
_READER_S = 1.0  #: so long a starting agent waits for readers
_log = log("bundles")


class Judging(msgspec.Struct, frozen=True, kw_only=True):
    """The bundle that judges, and what came of the one that was wanted last."""

    pid: int
    path: str  #: the file that was loaded
    name: str
    version: str
    variant: str
    device: str
    sha256: str
    since: str  #: UTC
    said_at: str  #: UTC
    wanted: str | None = None  #: what the pointer asked for, where it is not this one …
    problem: str | None = None  #: … and why it does not judge


class Sign:
    """The agent's side."""

    def __init__(self, state: Path) -> None:
        self._handle: int | None = None
        try:
            (state / "bundles").mkdir(parents=True, exist_ok=True)
            self._handle = os.open(state / "bundles" / _NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._lock(self._handle)
        except OSError as error:
            where = error.filename or _NAME
            _log.warning("judging_untold: %s: %s; weldwatch bundle list cannot show what judges", where, error.strerror)

    def _lock(self, handle: int) -> None:
        """A reader holds it for moments; one that hangs, or means harm, must not keep a line from starting."""
        until = time.monotonic() + _READER_S
        while True:
            try:
                return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise
                time.sleep(0.01)

    def show(self, judging: Judging) -> None:
        """Say what judges from now on."""
        if self._handle is None:
            return
        try:
            os.ftruncate(self._handle, os.pwrite(self._handle, msgspec.json.encode(judging), 0))
        except OSError as error:
            _log.warning("judging_untold: %s: %s; it shows what judged before", _NAME, error.strerror)

    def close(self) -> None:
        """The agent ends."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def read(state: Path) -> tuple[Judging | None, bool]:
    """What the agent says or said last (None: nothing readable), and whether an agent runs."""
    until = time.monotonic() + _TORN_S
    while True:
        try:
            handle = os.open(state / "bundles" / _NAME, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None, False
        try:
            runs = not _free(handle)
            return msgspec.json.decode(os.pread(handle, _MOST, 0), type=Judging), runs
        except msgspec.DecodeError:
            if time.monotonic() >= until:
                return None, runs
            time.sleep(0.01)
        finally:
            os.close(handle)


def _free(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
