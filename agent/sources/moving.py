"""Moving and removing one file between two open folders, never another one than was meant, never over another.

Invariants: the file is compared (inode, size, modification time) at the moment it moves; a name that is taken gets a
suffix; a copy across devices is whole and synced, with its folder, before the source is unlinked.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator

from agent.sources import files, linux
from agent.sources.identity import stem_of
from agent.sources.settling import Signature

HIDDEN = b".weldwatch-"  #: before the name of a file that is on its way out
_MAX_NAME = 255  #: bytes of a file name


def lstat(name: bytes, at: int) -> os.stat_result | None:
    """lstat of a regular file; None for anything else."""
    try:
        facts = os.stat(name, dir_fd=at, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            return None
        raise
    return facts if stat.S_ISREG(facts.st_mode) else None


def is_still(name: bytes, at: int, signature: Signature) -> bool:
    """Whether the file under this name is the one with this signature."""
    facts = lstat(name, at)
    return facts is not None and files.signature_of(facts) == signature


def delete(name: bytes, at: int, signature: Signature) -> bool:
    """Unlink a file; False where another one had taken its name.

    A camera may put a new picture under the name at any moment. So the file first gets a hidden name, is compared, and
    only then goes; what a kill leaves under the hidden name, ``restore`` gives back at the next start.
    """
    if not is_still(name, at, signature):
        return False
    hidden = HIDDEN + name
    if len(hidden) > _MAX_NAME:
        os.unlink(name, dir_fd=at)
        return True
    linux.rename_new(name, hidden, at, at)
    if is_still(hidden, at, signature):
        os.unlink(hidden, dir_fd=at)
        return True
    _give_back(hidden, name, at, at)
    return False


def restore(name: bytes, at: int) -> None:
    """Give a hidden file its name back, so that it is met as any other."""
    _give_back(name, name[len(HIDDEN) :], at, at)


def _give_back(now: bytes, name: bytes, source: int, at: int) -> None:
    """Back under its name or, where that is taken by a still newer file, a free one; a new name is a new frame."""
    for candidate in _free_names(name):
        try:
            linux.rename_new(now, candidate, source, at)
            return
        except FileExistsError:
            continue


def move(
    name: bytes,
    at: int,
    there: int,
    signature: Signature,
    *,
    wish: bytes | None = None,
    before: Callable[[bytes], None] | None = None,
) -> bytes | None:
    """Move a file to another folder under a free name; that name, None where another file had taken its place.

    ``before`` is told each name before it is used, while it is still free.
    """
    for candidate in _free_names(wish or name):
        if before is not None and lstat(candidate, there) is None:
            before(candidate)
        try:
            linux.rename_new(name, candidate, at, there)
        except FileExistsError:
            continue
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            if not _copy(name, candidate, at, there, signature):
                continue
            return candidate if delete(name, at, signature) else None
        if is_still(candidate, there, signature):
            return candidate
        # A writer put a new file under the name between the look and the move: give it back, it is not inspected.
        _give_back(candidate, name, there, at)
        return None
    return None


def _copy(name: bytes, target: bytes, at: int, there: int, signature: Signature) -> bool:
    """A durable copy under ``target``, new or left by a try that a kill cut short. False: the name is taken."""
    facts = lstat(target, there)
    if facts is not None:
        return (facts.st_size, facts.st_mtime_ns) == signature[1:] and _same_bytes(name, target, at, there)
    part = b".weldwatch-" + os.urandom(8).hex().encode() + b".part"
    try:
        with files.regular_file(name, at) as (source, before):
            if files.signature_of(before) != signature:
                raise FileNotFoundError(errno.ENOENT, "replaced while it was copied")
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=there)
            with open(source, "rb", closefd=False) as reader, open(fd, "wb") as writer:
                shutil.copyfileobj(reader, writer, 1024 * 1024)
                writer.flush()
                os.utime(fd, ns=(before.st_atime_ns, before.st_mtime_ns))
                os.fsync(fd)
        linux.rename_new(part, target, there, there)
    except BaseException:
        if lstat(part, there) is not None:
            os.unlink(part, dir_fd=there)
        raise
    os.fsync(there)
    return True


def _same_bytes(name: bytes, target: bytes, at: int, there: int) -> bool:
    with files.regular_file(name, at) as (one, _), files.regular_file(target, there) as (other, _):
        while True:
            first, second = os.read(one, 1024 * 1024), os.read(other, 1024 * 1024)
            if first != second:
                return False
            if not first:
                return True


def _free_names(name: bytes) -> Iterator[bytes]:
    """``a.png``, ``a_1.png``, ``a_2.png``, …, each cut to what a file system takes."""
    yield name
    stem = stem_of(name)
    suffix = name[len(stem) :]
    number = 0
    while True:
        number += 1
        yield fitting(stem, b"_%d" % number + suffix)


def fitting(stem: bytes, suffix: bytes) -> bytes:
    """A file name, cut in its stem to what a file system takes."""
    return stem[: _MAX_NAME - len(suffix)] + suffix
