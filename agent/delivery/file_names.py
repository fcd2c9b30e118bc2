"""How a result's file is named and written: ``<image stem>_<YYYYMMDDTHHMMSSmmmZ>.json``.

Invariants
- A name is never '', '.', '..', hidden, or longer than 255 bytes, and never leaves its folder, whatever the image's.
- A file appears under its final name whole and synced, or not at all; nothing is ever overwritten. A taken name gets
  ``_1``, ``_2``, …
"""

from __future__ import annotations

import errno
import os
import re
import unicodedata
import uuid
from collections.abc import Iterator
from pathlib import Path

from agent.clock import compact_utc, parse_iso

MAX_STEM_BYTES = 180
_CONTROLS = {"Cc", "Cs", "Zl", "Zp"}  #: control characters, lone surrogates, line and paragraph separators
#: Marks that turn the direction of writing, so that a name reads as another one than it is.
_TURNS_AROUND = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_UNDECODABLE = re.compile(r"\\x([0-9a-f]{2})")
#: EINVAL may be the name or the link: renaming tells which.
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES, errno.EINVAL}
_SYNCS_NO_FOLDERS = {errno.EINVAL, errno.ENOTSUP}  #: FUSE and network mounts; their names are as durable as they get


def safe_stem(image_name: str) -> str:
    """The stem of an image's name (``\\xNN`` for undecodable bytes, '/' between folders) as part of a file name."""
    stem = _stem(image_name.rsplit("/", 1)[-1])
    stem = _UNDECODABLE.sub(lambda found: f"%{found[1].upper()}", stem)
    stem = "".join(_escape(c) for c in stem)
    if not stem or stem[0] == ".":
        stem = f"%2E{stem[1:]}" if stem else "_"
    return _cut(stem)


def _stem(name: str) -> str:
    """Without the last suffix; a name that is all suffix (``.png``) is all stem."""
    head, dot, _ = name.rpartition(".")
    return head if dot and head.strip(".") else name


def _escape(c: str) -> str:
    if unicodedata.category(c) in _CONTROLS or c in _TURNS_AROUND:
        return "".join(f"%{byte:02X}" for byte in c.encode("utf-8", "surrogatepass"))
    return c


def _cut(stem: str) -> str:
    """At most 180 bytes, whole characters, and no escape cut in two."""
    cut = stem.encode()[:MAX_STEM_BYTES].decode("utf-8", "ignore")
    if len(cut) < len(stem):
        cut = re.sub(r"%[0-9A-F]?$", "", cut)
    return cut


def day_of(created_at: str) -> str:
    """``YYYY-MM-DD`` of a result's time (UTC)."""
    return created_at[:10]


def candidates(image_name: str, created_at: str) -> Iterator[str]:
    """The names a result's file may have, in the order they are tried."""
    base = f"{safe_stem(image_name)}_{compact_utc(parse_iso(created_at))}"
    yield f"{base}.json"
    number = 0
    while True:
        number += 1
        yield f"{base}_{number}.json"


def write_temporary(path: Path, body: bytes, *, sync: bool = True) -> None:
    """Write a file that nobody looks at yet. One left over by a kill is replaced, never written into.

    It may be a second name of a file already in place (killed between link and unlink), which must keep its bytes.
    """
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        write_all(descriptor, body)
        if sync:
            os.fsync(descriptor)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def write_all(descriptor: int, body: bytes) -> None:
    """``os.write`` until all is written; the kernel may take less at a time."""
    view = memoryview(body)
    while view:
        view = view[os.write(descriptor, view) :]


def put_in_place(temporary: Path, final: Path) -> None:
    """Give a synced temporary file its final name. ``FileExistsError`` when that is taken; then nothing has changed."""
    try:
        os.link(temporary, final)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        # FAT and some network mounts know no hard links; we are the only writer, so looking first is enough.
        if final.exists():
            raise FileExistsError(errno.EEXIST, "taken", str(final)) from None
        temporary.rename(final)
    else:
        temporary.unlink()


def sync_directory(path: Path) -> None:
    """Make names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _SYNCS_NO_FOLDERS:
            raise
    finally:
        os.close(descriptor)


def sync_file_system(folder: Path) -> None:
    """Make all that was written to the file system of ``folder`` durable, with one sync (Linux, syncfs(2))."""
    import ctypes

    syncfs = ctypes.CDLL(None, use_errno=True).syncfs
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(descriptor)


def write_result_file(directory: Path, image_name: str, created_at: str, body: bytes) -> Path:
    """Write one result into ``directory`` (which exists) under the first free name; the path it got.

    ``image_name`` and ``created_at`` are those of the result, ``body`` its JSON. ``OSError`` when it cannot be written.
    """
    temporary = directory / f".{uuid.uuid4()}.tmp"
    write_temporary(temporary, body + b"\n")
    try:
        for name in candidates(image_name, created_at):
            try:
                put_in_place(temporary, directory / name)
            except FileExistsError:
                continue
            sync_directory(directory)
            return directory / name
    finally:
        temporary.unlink(missing_ok=True)
    raise AssertionError("the names never end")
