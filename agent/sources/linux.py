"""The four Linux calls that Python does not offer: inotify, and a rename that never overwrites.

Invariants: every failure is an ``OSError`` with its errno; nothing here keeps state. Why not a watching library:
docs/decisions/folder-watching.md.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator

IN_CLOSE_WRITE, IN_MOVED_TO, IN_CREATE = 0x8, 0x80, 0x100
IN_DELETE_SELF, IN_MOVE_SELF, IN_UNMOUNT = 0x400, 0x800, 0x2000
IN_Q_OVERFLOW, IN_IGNORED, IN_ISDIR = 0x4000, 0x8000, 0x40000000
IN_ONLYDIR, IN_DONT_FOLLOW, IN_EXCL_UNLINK = 0x1000000, 0x2000000, 0x4000000

_RENAME_NOREPLACE = 1
_EVENT_HEAD = struct.Struct("iIII")

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def inotify_init() -> int:
    """A new inotify file descriptor, non-blocking, closed on exec."""
    return _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "inotify_init1")


def inotify_add_watch(fd: int, path: bytes, mask: int) -> int:
    """Watch ``path``; the same inode gives the same descriptor again."""
    return _checked(_libc.inotify_add_watch(fd, ctypes.c_char_p(path), ctypes.c_uint32(mask)), "inotify_add_watch")


def inotify_rm_watch(fd: int, descriptor: int) -> None:
    """Stop watching."""
    _checked(_libc.inotify_rm_watch(fd, descriptor), "inotify_rm_watch")


def inotify_events(buffer: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The events in what was read: (watch descriptor, mask, name)."""
    at = 0
    while at + _EVENT_HEAD.size <= len(buffer):
        descriptor, mask, _cookie, length = _EVENT_HEAD.unpack_from(buffer, at)
        at += _EVENT_HEAD.size
        yield descriptor, mask, buffer[at : at + length].rstrip(b"\0")
        at += length


def rename_new(source: bytes, target: bytes, source_dir: int, target_dir: int) -> None:
    """Rename without ever overwriting: ``FileExistsError`` where the target's name is taken.

    File systems that cannot do this in one step (NFS, some FUSE) get a placeholder first; a kill right between the two
    calls leaves an empty file under the target's name, and loses nothing.
    """
    renameat2 = getattr(_libc, "renameat2", None)
    if renameat2 is not None:
        if renameat2(source_dir, source, target_dir, target, _RENAME_NOREPLACE) == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise OSError(code, os.strerror(code))
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target_dir))
    try:
        os.rename(source, target, src_dir_fd=source_dir, dst_dir_fd=target_dir)
    except OSError:
        os.unlink(target, dir_fd=target_dir)
        raise
