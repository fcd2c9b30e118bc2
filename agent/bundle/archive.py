"""The bundle on disk: ``<name>-<version>.pipeline``, a zip that is verified whole before any part of it is used.

    manifest.json                 schema weldwatch.bundle/1; size and SHA-256 of every entry below
    model/<variant>.onnx          golden/*.png          report/*
    weldingPreProcessing.py       weldingPostProcessing.py      never executed here
    signature                     Ed25519 over manifest.json (optional)

Invariants
- Refused: entries that are unlisted, missing, listed or stored twice, links, encrypted, absolute or with ``..``, larger
  than the manifest says, compressed by anything but deflate, or with another digest.
- Memory stays flat while verifying, the list of entries included; an entry that is read later is checked against its
  digest again, so that a file changed after the check never judges a frame.
- Writing is reproducible: same contents, same bytes.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from types import TracebackType

import msgspec

from agent.bundle import manifest as manifests
from agent.bundle.manifest import FileFacts, Manifest
from agent.errors import BundleError

MANIFEST, SIGNATURE = "manifest.json", "signature"
MAX_MANIFEST, MAX_SIGNATURE = 4 << 20, 4 << 10
MAX_ENTRIES, MAX_TOTAL = 4096, 1 << 30
MAX_DIRECTORY = 4 << 20  #: the zip's list of entries: read whole, before any of them can be counted
_CHUNK = 1 << 20
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)


class _File(io.BufferedReader):
    """The zip's file. While ``most`` is set nobody may ask for more at once: zipfile reads the whole list of entries,
    and makes ten times its size of it in memory, before it tells how many there are.
    """

    most: int | None = None

    def read(self, size: int | None = -1, /) -> bytes:
        """As the parent, or ``BadZipFile``."""
        if self.most is not None and size is not None and size > self.most:
            raise zipfile.BadZipFile(f"its list of entries has {size} bytes, {self.most} at most are read")
        return super().read(size)


class Archive:
    """An opened, wholly verified bundle. Use as a context manager, or close it."""

    def __init__(self, path: Path) -> None:
        """Open and verify. ``BundleError`` says in one line why it is refused."""
        self.path = path
        try:
            self._file = _File(io.FileIO(path), 4096)
        except OSError as error:
            raise BundleError(f"{path}: {error.strerror or error}; give the path of a .pipeline file") from None
        try:
            self._file.most = MAX_DIRECTORY
            self._zip = zipfile.ZipFile(self._file)
            self._file.most = None
            self._infos = self._listed_once()
            self.manifest_bytes = self._read(MANIFEST, MAX_MANIFEST)
            self.signature = self._read(SIGNATURE, MAX_SIGNATURE) if SIGNATURE in self._infos else None
            self.manifest: Manifest = manifests.parse(self.manifest_bytes, str(path))
            self._verify()
        except BundleError:
            self._file.close()
            raise
        except _DAMAGED as error:
            self._file.close()
            raise BundleError(f"{path}: not a whole bundle ({' '.join(str(error).split())}); copy it again") from None

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._zip.close()
        self._file.close()

    def read(self, name: str) -> bytes:
        """One listed entry, checked against its digest once more."""
        facts = self.manifest.files.get(name)
        if facts is None:
            raise BundleError(f"{self.path}: has no entry {name!r}")
        try:
            data = self._read(name, facts.bytes)
        except _DAMAGED as error:
            raise BundleError(f"{self.path}: {name}: {' '.join(str(error).split())}") from None
        if len(data) != facts.bytes or hashlib.sha256(data).hexdigest() != facts.sha256:
            raise BundleError(f"{self.path}: {name} is not what the manifest lists; the file was changed")
        return data

    def _refuse(self, what: str) -> BundleError:
        return BundleError(f"{self.path}: {what}; the bundle is refused")

    def _listed_once(self) -> dict[str, zipfile.ZipInfo]:
        infos: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            name = info.filename
            if not is_plain_path(name) or name != info.orig_filename:
                raise self._refuse(f"entry {name!r} is not a plain relative path")
            if name in infos:
                raise self._refuse(f"entry {name!r} is stored twice")
            mode = info.external_attr >> 16
            if mode and not (stat.S_ISREG(mode) or stat.S_IFMT(mode) == 0):
                raise self._refuse(f"entry {name!r} is not a regular file")
            if info.flag_bits & 0x1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise self._refuse(f"entry {name!r} is encrypted or compressed in an unknown way")
            infos[name] = info
            if len(infos) > MAX_ENTRIES:
                raise self._refuse(f"more than {MAX_ENTRIES} entries")
        if MANIFEST not in infos:
            raise self._refuse("no manifest.json")
        return infos

    def _read(self, name: str, limit: int) -> bytes:
        """At most ``limit`` bytes of an entry, whatever the zip's header claims."""
        with self._zip.open(self._infos[name]) as entry:
            data = entry.read(limit + 1)
        if len(data) > limit:
            raise self._refuse(f"entry {name!r} is larger than {limit} bytes")
        return data

    def _verify(self) -> None:
        listed = self.manifest.files
        stored = self._infos.keys() - {MANIFEST, SIGNATURE}
        for name in sorted(stored ^ listed.keys()):
            raise self._refuse(f"entry {name!r} is {'not listed' if name in stored else 'missing'}")
        if sum(facts.bytes for facts in listed.values()) > MAX_TOTAL:
            raise self._refuse(f"more than {MAX_TOTAL >> 20} MB in all")
        for name, facts in listed.items():
            if self._infos[name].file_size != facts.bytes or self._digest(name, facts.bytes) != facts.sha256:
                raise self._refuse(f"entry {name!r} is not what the manifest lists (size or SHA-256)")

    def _digest(self, name: str, size: int) -> str:
        hasher, left = hashlib.sha256(), size
        with self._zip.open(self._infos[name]) as entry:
            while chunk := entry.read(min(_CHUNK, left + 1)):
                left -= len(chunk)
                if left < 0:
                    raise self._refuse(f"entry {name!r} is larger than {size} bytes")
                hasher.update(chunk)
        return hasher.hexdigest()


def is_plain_path(name: str) -> bool:
    """A relative path of plain parts with '/', that names a file and cannot leave its folder."""
    if not name or name.startswith("/") or name.endswith("/") or "\\" in name or "\0" in name or ":" in name:
        return False
    return all(part not in ("", ".", "..") for part in name.split("/")) and not PurePosixPath(name).is_absolute()


def write(path: Path, manifest: Manifest, entries: Mapping[str, bytes]) -> Manifest:
    """Write a bundle at ``path`` (whole or not at all) and return the manifest with ``files`` filled in.

    ``entries`` maps plain paths to contents; ``manifest.json`` and ``signature`` are not for the caller to give.
    """
    for name in entries:
        if not is_plain_path(name) or name in (MANIFEST, SIGNATURE):
            raise ValueError(f"not a name for an entry: {name!r}")
    files = {
        name: FileFacts(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        for name, data in sorted(entries.items())
    }
    manifest = msgspec.structs.replace(manifest, files=files)
    encoded = manifests.encode(manifest)
    manifests.parse(encoded, str(path))
    _write_zip(path, {MANIFEST: encoded, **dict(sorted(entries.items()))})
    return manifest


def write_signed(archive: Archive, path: Path, signature: bytes) -> None:
    """A copy of a verified bundle at ``path`` that carries ``signature``; the manifest stays as it is, to the byte."""
    entries = {name: archive.read(name) for name in sorted(archive.manifest.files)}
    _write_zip(path, {MANIFEST: archive.manifest_bytes, **entries, SIGNATURE: signature})


def _write_zip(path: Path, contents: Mapping[str, bytes]) -> None:
    """Same contents, same bytes; synced and put in place in one step."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as target:
        try:
            with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
                for name, data in contents.items():
                    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
                    info.external_attr = (stat.S_IFREG | 0o644) << 16
                    info.compress_type = zipfile.ZIP_DEFLATED
                    archive.writestr(info, data)
            target.flush()
            os.fchmod(target.fileno(), 0o644)
            os.fsync(target.fileno())
            Path(target.name).replace(path)
        except BaseException:
            Path(target.name).unlink(missing_ok=True)
            raise
