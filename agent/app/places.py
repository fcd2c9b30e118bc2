"""Folders that a station needs, the lock on its state, and the space that is left."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from agent.clock import Clock, iso_utc
from agent.errors import UsageError


def make_folder(folder: Path, key: str) -> None:
    """Make sure a configured folder is there and writable. ``UsageError`` names its key."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{key}: {folder}: {error.strerror}; create it or choose another") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{key}: {folder}: not writable for this user; change its owner or choose another")


@contextlib.contextmanager
def only_one(state: Path, station: str, clock: Clock) -> Iterator[None]:
    """Hold the state folder for this process. ``UsageError`` names the agent that holds it already.

    The lock is the kernel's, so that it goes with the process however that ends.
    """
    path = state / "agent.lock"
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UsageError(f"state: {path}: {error.strerror}; make it writable for this user") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(handle, 400, 0).decode(errors="replace").strip() or "another agent"
            raise UsageError(f"state: {state} is in use by {holder}; stop it first, or give this one its own") from None
        mine = f"pid {os.getpid()}, station {station}, since {iso_utc(clock.now())}\n".encode()
        with contextlib.suppress(OSError):  # on a full disk the lock holds all the same, only without a name in it
            os.ftruncate(handle, os.pwrite(handle, mine, 0))
        yield
    finally:
        os.close(handle)


def free_mb(folder: Path) -> int | None:
    """Megabytes (2^20) free where ``folder`` is; None when it cannot be told."""
    try:
        return shutil.disk_usage(folder).free >> 20
    except OSError:
        return None
