"""Files of a watched tree, reached without ever leaving it.

Invariants
- Paths are bytes relative to the root; each component is opened without following links, so that a folder that was
  replaced by a link leads nowhere.
- Only regular files are opened, and never in a way that can block (a FIFO) or that a child process inherits.
- No descriptor outlives a call: a share can be unmounted at any time.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from agent.sources.settling import Signature

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class NotAFileError(OSError):
    """It is a link, a FIFO, a device, a socket or a folder."""


@contextmanager
def folder_fd(root: bytes, folder: bytes) -> Iterator[int]:
    """An open descriptor of a folder below the root (b"" is the root itself). ``OSError`` where there is none."""
    fd = os.open(root, _FOLDER)
    try:
        for part in folder.split(b"/") if folder else ():
            below = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=fd)
            os.close(fd)
            fd = below
        yield fd
    finally:
        os.close(fd)


@contextmanager
def regular_file(name: bytes, folder: int) -> Iterator[tuple[int, os.stat_result]]:
    """Open a regular file in a folder. ``NotAFileError`` for anything else, ``OSError`` as open(2) gives it."""
    try:
        fd = os.open(name, _FILE, dir_fd=folder)
    except OSError as error:
        # A link (ELOOP), or a socket or device without a driver (ENXIO, ENODEV).
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.ENODEV):
            raise NotAFileError from None
        raise
    try:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode):
            raise NotAFileError
        yield fd, facts
    finally:
        os.close(fd)


def read_exactly(fd: int, size: int) -> bytes | None:
    """All ``size`` bytes of a file; None where it has fewer or more."""
    parts, missing = [], size + 1  # one more than it should have, to see that it has grown
    while missing and (part := os.read(fd, missing)):
        parts.append(part)
        missing -= len(part)
    if missing != 1:
        return None
    return parts[0] if len(parts) == 1 else b"".join(parts)


def signature_of(facts: os.stat_result) -> Signature:
    """Inode, size and modification time."""
    return Signature(facts.st_ino, facts.st_size, facts.st_mtime_ns)


def is_regular(facts: os.stat_result) -> bool:
    """Whether lstat saw a regular file."""
    return stat.S_ISREG(facts.st_mode)


def is_hidden(path: bytes) -> bool:
    """Whether a component of a relative path begins with a dot."""
    return path.startswith(b".") or b"/." in path


def split(path: bytes) -> tuple[bytes, bytes]:
    """(folder, name) of a relative path."""
    folder, _, name = path.rpartition(b"/")
    return folder, name
