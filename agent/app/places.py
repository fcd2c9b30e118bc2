"""Folders that a station needs, who works in them, the lock on its state, and the space that is left."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import pwd
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from agent.clock import Clock, iso_utc
from agent.errors import UsageError

STATE_FORMAT = 1  #: layout of the state folder as a whole; the ledger counts its own
_PR_SET_DUMPABLE = 4  #: of prctl(2)


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


def enter_state(state: Path) -> None:
    """Called first by whatever is going to write into a state folder: the agent, and the commands that change it.

    Started by root, the process goes on as the owner of the folder: nothing is left behind that the agent could not
    touch, and nobody who owns the folder can lead root astray with a link in it. ``UsageError`` when a newer weldwatch
    has been at work here, or when that owner may not read this installation.
    """
    if os.geteuid() == 0 and (owner := _owner(state)).st_uid != 0:
        _become(owner.st_uid, owner.st_gid)
        if not os.access(os.__file__, os.R_OK):
            raise UsageError(
                f"state: {state} is user {owner.st_uid}'s, who may not read {sys.prefix}; see docs/install.md"
            )
    _refuse_newer(state)


def _owner(folder: Path) -> os.stat_result:
    """Of the folder, or of where it is going to be made."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.stat()


def _become(uid: int, gid: int) -> None:
    try:
        os.initgroups(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:  # a user of another machine or container: no name, no other groups
        os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    os.umask(0o027)  # as the service: the group reads
    # The kernel closes /proc/self to a process that has changed its user; the model is loaded through it.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


def _refuse_newer(state: Path) -> None:
    """``state/format`` holds the number of the folder's layout; it is written from the second layout on."""
    try:
        found = (state / "format").read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"state: {state / 'format'}: {error.strerror}; make it readable for this user") from None
    if found != str(STATE_FORMAT):
        raise UsageError(
            f"state: {state}: layout {found[:20]!r}, this weldwatch knows {STATE_FORMAT}: a newer one has been at work "
            "here; install that version again, or name another state folder"
        )
