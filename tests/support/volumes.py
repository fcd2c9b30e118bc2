"""Small volumes that can run full: a tmpfs each, in a mount namespace of its own, for root and for everybody else."""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_NEW_MOUNTS = 0x20000  #: CLONE_NEWNS of unshare(2)
_volumes: list[Path] = []  #: mounted by the test that runs


def in_own_mounts(test: Callable[..., None]) -> Callable[..., None]:
    """Let a test mount. Its mounts are seen by nobody else and go with it.

    Who is not root may mount only as root of a user namespace, which a process with threads cannot enter: for them the
    test runs in a process of its own.
    """

    @functools.wraps(test)
    def run(*arguments: Any, **fixtures: Any) -> None:
        if os.geteuid() == 0:
            _own_mounts()
            try:
                test(*arguments, **fixtures)
            finally:
                while _volumes:
                    subprocess.run(["umount", "--lazy", _volumes.pop()], check=True)
            return
        this = f"{test.__code__.co_filename}::{test.__name__}"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", this]
        done = subprocess.run(["unshare", "--map-root-user", "--mount", *command], check=False)
        assert done.returncode == 0

    return run


@functools.cache
def _own_mounts() -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW_MOUNTS):
        raise OSError(ctypes.get_errno(), "unshare")
    # Ours are seen by nobody else, and what others unmount meanwhile goes here, too.
    subprocess.run(["mount", "--make-rslave", "/"], check=True)


def volume(at: Path, megabytes: int) -> Path:
    """An empty volume; goes with the test."""
    at.mkdir()
    _volumes.append(at)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,nr_inodes=0", "none", str(at)], check=True)
    return at


def quiet_disk(at: Path, megabytes: int) -> Path:
    """An empty ext4 in a file, for root: whatever else runs on this machine syncs none of it."""
    image = at.with_suffix(".ext4")
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    at.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(at)], check=True)
    return at
