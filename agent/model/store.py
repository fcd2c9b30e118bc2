"""The bundles on a station: which are installed, which one shall judge, which one beside it, and how to go back.

    <state>/bundles/<name>-<version>.pipeline     installed: verified whole, never changed
    <state>/bundles/active.json                   the pointer: {"active": …, "history": […]}, newest last
    <state>/bundles/.pointer.lock                 held (flock) while the pointer moves
    <state>/bundles/shadow.json                   the candidate: {"shadow": …}; absent: none

Invariants
- A file appears under its name synced and whole; the pointer moves by rename. A kill leaves the old state or the new.
- What is active, in the pointer's history or the candidate is never removed; of the others the newest ``KEEP`` stay.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from agent.bundle import signature
from agent.bundle.archive import MAX_TOTAL, Archive
from agent.errors import BundleError

SHIPPED = "weld-demo"
SUFFIX = ".pipeline"
KEEP = 5
HISTORY = 3
_LEFTOVER_S = 3600.0
_LOCK_S = 5.0  #: a move takes some milliseconds
_CHUNK = 1 << 20
_MOST = MAX_TOTAL + (64 << 20)  #: the largest file: its entries, and the zip around them
_SHIPPED_FOLDER = Path(__file__).parent.parent / "demo"
_INSTALLED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


class Pointer(msgspec.Struct, frozen=True):
    """``active.json``."""

    active: str
    history: list[str] = []


class Candidate(msgspec.Struct, frozen=True):
    """``shadow.json``."""

    shadow: str


def resolve(wanted: str, store: Store | None = None) -> Path:
    """From ``bundle.initial`` or ``--bundle`` to a file: an installed name, a path, or ``weld-demo``, which ships."""
    if store is not None and (installed := store.path(wanted)) is not None:
        return installed
    if wanted == SHIPPED:
        shipped = sorted(_SHIPPED_FOLDER.glob(f"{SHIPPED}-*{SUFFIX}"))
        if not shipped:
            raise BundleError(f"{wanted}: the shipped bundle is missing; install weldwatch again")
        return shipped[-1]
    path = Path(wanted)
    if path.is_file():
        return path
    raise BundleError(
        f"{wanted}: no such bundle; give the path of a {SUFFIX} file, an installed name, or {SHIPPED!r}, which ships"
    )


class Store:
    """The ``bundles`` folder of a state folder. Any process may use it; each step is atomic."""

    def __init__(self, state: Path) -> None:
        self.folder = state / "bundles"
        self._pointer, self._shadow = self.folder / "active.json", self.folder / "shadow.json"

    def names(self) -> list[str]:
        """Installed bundles as ``name-version``, oldest installation first."""
        files = sorted(self.folder.glob(f"*{SUFFIX}"), key=lambda file: (file.stat().st_mtime_ns, file.name))
        return [file.name.removesuffix(SUFFIX) for file in files]

    def path(self, name: str) -> Path | None:
        """The file of an installed bundle; None when there is none of that name."""
        name = name.removesuffix(SUFFIX)
        file = self.folder / f"{name}{SUFFIX}"
        return file if _INSTALLED.fullmatch(name) and file.is_file() else None

    def pointer(self) -> Pointer | None:
        """What is active; None while nothing was activated. ``BundleError`` for a pointer that cannot be read."""
        try:
            return msgspec.json.decode(self._pointer.read_bytes(), type=Pointer)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise BundleError(f"{self._pointer}: {error}; activate a bundle anew") from None

    def _readable_pointer(self) -> Pointer | None:
        """The pointer, or None where there is none or it is broken: activating anew is the way out."""
        try:
            return self.pointer()
        except BundleError:
            return None

    def shadow(self) -> str | None:
        """The candidate that shall judge beside the active bundle; None where there is none, or none can be read."""
        try:
            return msgspec.json.decode(self._shadow.read_bytes(), type=Candidate).shadow
        except (OSError, msgspec.DecodeError):
            return None

    def stamp(self) -> tuple[int, int] | None:
        """Changes whenever the pointer does: cheap enough to look at several times a second."""
        return _stamp(self._pointer)

    def shadow_stamp(self) -> tuple[int, int] | None:
        """Changes whenever the candidate does."""
        return _stamp(self._shadow)

    def install(self, source: Path, keys: Path | None = None, initial: str = SHIPPED) -> str:
        """Copy a bundle into the store and verify the copy whole. Its name. ``BundleError`` for what is refused."""
        with opened(source) as file:
            return self.receive(lambda out: pour(file, out), str(source), keys, initial)

    def receive(
        self, fill: Callable[[BinaryIO], None], origin: str, keys: Path | None = None, initial: str = SHIPPED,
        sha256: str | None = None,
    ) -> str:  # fmt: skip
        """Install what ``fill`` writes; ``origin`` names it in errors. The name it is installed under.

        ``BundleError`` for what is refused: larger than a bundle may be, not whole, not ``sha256`` where that is given,
        not signed by one of ``keys`` where these are. Nothing is left of it.
        """
        with self._draft(origin) as copy:
            try:
                with copy.open("xb") as out:
                    fill(out)
                    out.flush()
                    os.fsync(out.fileno())
                if sha256 is not None and _digest(copy) != sha256.lower():
                    raise BundleError(f"{origin}: its SHA-256 is {_digest(copy)}, wanted is {sha256.lower()}")
            except OSError as error:
                raise BundleError(f"{origin}: cannot be copied to {self.folder}: {error.strerror or error}") from None
            with Archive(copy) as archive:
                signature.require(archive, keys)
                name = f"{archive.manifest.name}-{archive.manifest.version}"
                self._put(copy, name, archive)
        self._tidy(initial)
        return name

    @contextmanager
    def _draft(self, origin: str) -> Iterator[Path]:
        self._make()
        copy = self.folder / f".{uuid.uuid4()}.tmp"
        try:
            yield copy
        except BundleError as error:
            raise BundleError(str(error).replace(str(copy), origin)) from None
        finally:
            copy.unlink(missing_ok=True)

    def _put(self, copy: Path, name: str, new: Archive) -> None:
        final = self.folder / f"{name}{SUFFIX}"
        try:
            os.link(copy, final)
        except FileExistsError:
            with Archive(final) as there:
                if there.manifest_bytes != new.manifest_bytes:
                    raise BundleError(f"{name} is installed with other contents; give yours a new version") from None
                signed_anew = new.signature not in (None, there.signature)
            if signed_anew:
                copy.replace(final)
        _sync(self.folder)

    def activate(self, name: str, initial: str = SHIPPED) -> None:
        """Let ``name`` (an installed bundle, or the shipped one) judge from now on. What judged until now, ``initial``
        where nothing was activated yet, is kept to go back to.
        """
        self._require(name)
        name = name.removesuffix(SUFFIX)
        with self._moving():
            before = self._readable_pointer() or Pointer(initial)
            history = [one for one in [*before.history, before.active] if one != name]
            # Written also where it is active already: a running agent that refused it looks again.
            self.write(self._pointer, Pointer(name, history[-HISTORY:]))
        if self.shadow() == name:
            self.set_shadow(None)

    def set_shadow(self, name: str | None) -> None:
        """Let ``name`` judge beside the active bundle from now on; None ends that."""
        if name is None:
            self._shadow.unlink(missing_ok=True)
            return
        self._require(name)
        self._make()
        self.write(self._shadow, Candidate(name.removesuffix(SUFFIX)))

    def not_installed(self, name: str) -> BundleError:
        """What to say of a name that is not."""
        return BundleError(f"{name}: not installed; installed are {', '.join(self.names()) or 'none'}")

    def _require(self, name: str) -> None:
        if self.path(name) is None and name != SHIPPED:
            raise self.not_installed(name)

    def former(self, to: Path | None = None) -> str:
        """What judged before; with ``to`` that file, if it did. ``BundleError`` where there is nothing such."""
        return self._history(to)[-1]

    def rollback(self, to: Path | None = None) -> str:
        """Go back to what ``former`` says. Its name."""
        with self._moving():
            history = self._history(to)
            self.write(self._pointer, Pointer(history[-1], history[:-1]))
        return history[-1]

    @contextmanager
    def _moving(self) -> Iterator[None]:
        """One at a time looks at the pointer and moves it: command line, drop folder and agent lose no entry."""
        self._make()
        file, until = self.folder / ".pointer.lock", time.monotonic() + _LOCK_S
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise BundleError(f"{file}: {error.strerror}; the state folder must be writable") from None
        try:
            while not _locked(handle):
                if time.monotonic() >= until:
                    raise BundleError(f"{file}: another process moves the pointer, for {_LOCK_S:g} s now; try again")
                time.sleep(0.01)
            yield
        finally:
            os.close(handle)

    def _history(self, to: Path | None) -> list[str]:
        pointer = self.pointer()
        history = [one for one in (pointer.history if pointer else []) if self._there(one)]
        while to is not None and history and resolve(history[-1], self) != to:
            history.pop()
        if not history:
            raise BundleError("nothing to go back to; activate an installed bundle by name")
        return history

    def _make(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BundleError(f"{self.folder}: {error.strerror}; the state folder must be writable") from None

    def _there(self, wanted: str) -> bool:
        try:
            return resolve(wanted, self).is_file()
        except BundleError:
            return False

    def candidates(self, initial: str) -> list[str]:
        """What to try at a start, in this order: the active bundle, what judged before it, ``bundle.initial``."""
        pointer = self.pointer()
        if pointer is None:
            return [initial]
        return list(dict.fromkeys([pointer.active, *reversed(pointer.history), initial]))

    def write(self, file: Path, contents: msgspec.Struct) -> None:
        """Put a file of the folder in its place, whole and synced. ``BundleError``: it cannot be, and is as it was."""
        temporary = self.folder / f".{uuid.uuid4()}.tmp"
        try:
            temporary.write_bytes(msgspec.json.encode(contents))
            _sync(temporary)
            temporary.replace(file)
        except OSError as error:
            raise BundleError(f"{file}: {error.strerror}; nothing is changed") from None
        finally:
            temporary.unlink(missing_ok=True)
        _sync(self.folder)

    def _tidy(self, initial: str) -> None:
        """Keep the newest, what is active or may be needed again; leftovers of a kill go."""
        pointer = self._readable_pointer()
        needed = {initial.removesuffix(SUFFIX), self.shadow(), *([pointer.active, *pointer.history] if pointer else [])}
        spare = [name for name in self.names() if name not in needed]
        for left in self.folder.glob(".*.tmp"):
            if time.time() - left.stat().st_mtime > _LEFTOVER_S:
                left.unlink(missing_ok=True)
        for name in spare[:-KEEP]:
            (self.folder / f"{name}{SUFFIX}").unlink(missing_ok=True)


def opened(source: Path) -> BinaryIO:
    """The file of a bundle, to be read. ``BundleError`` when that cannot be."""
    try:
        if source.is_file():
            return source.open("rb")
    except OSError as error:
        raise BundleError(f"{source}: {error.strerror}; it must be readable") from None
    raise BundleError(f"{source}: no such file; give the path of a {SUFFIX} file")


def pour(source: BinaryIO, out: BinaryIO) -> None:
    """Copy a file, at most what a bundle may have. ``BundleError`` for more."""
    taken = 0
    if os.fstat(source.fileno()).st_size > _MOST:
        raise BundleError(f"{source.name}: more than {_MOST >> 20} MB; that is no bundle")
    while chunk := source.read(_CHUNK):
        taken += len(chunk)
        if taken > _MOST:
            raise BundleError(f"{source.name}: more than {_MOST >> 20} MB; that is no bundle")
        out.write(chunk)


def _digest(file: Path) -> str:
    hasher = hashlib.sha256()
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            hasher.update(chunk)
    return hasher.hexdigest()


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        facts = file.stat()
    except OSError:
        return None
    return facts.st_ino, facts.st_mtime_ns


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
