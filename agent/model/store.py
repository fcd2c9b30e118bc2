"""The bundles on a station: which are installed, which one judges, and how to go back.

    <state>/bundles/<name>-<version>.pipeline     installed: verified whole, never changed
    <state>/bundles/active.json                   the pointer: {"active": …, "history": […]}, newest last

Invariants
- ``load`` returns a model only after the archive was verified whole, its signature where trust is configured, and the
  golden self-test passed on this machine.
- A file appears under its name synced and whole; the pointer moves by rename. A kill leaves the old state or the new.
- What is active, or in the pointer's history, is never removed; of the others the newest ``KEEP`` stay.
"""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agent.bundle import signature
from agent.bundle.archive import Archive
from agent.config import BundleConfig
from agent.errors import BundleError
from agent.model.session import OnnxModel, providers, self_test

SHIPPED = "weld-demo"
SUFFIX = ".pipeline"
KEEP = 5
HISTORY = 3
_LEFTOVER_S = 3600.0
_SHIPPED_FOLDER = Path(__file__).parent.parent / "demo"
_INSTALLED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass(frozen=True)
class Loaded:
    """A bundle that passed its self-test, ready to judge."""

    model: OnnxModel
    path: Path
    notice: str | None
    self_test_deviation: float  #: largest absolute deviation of a golden output
    latency_ms: float  #: median of the self-test's frames, preprocessing and inference
    signed_by: str | None = None  #: name of the trusted key
    refusals: tuple[str, ...] = ()  #: what was preferred and did not pass here, one line each


@dataclass(frozen=True)
class Trust:
    """What a bundle has to show before it may judge."""

    keys: Path | None = None  #: folder of public keys; None: unsigned bundles are taken
    device: str = "auto"
    budget_ms: float | None = None  #: slowest median latency of the self-test

    @classmethod
    def of(cls, config: BundleConfig) -> Trust:
        """What a station's configuration asks for."""
        return cls(Path(config.trusted_keys) if config.trusted_keys else None, config.device, config.budget_ms)


class Pointer(msgspec.Struct, frozen=True):
    """``active.json``."""

    active: str
    history: list[str] = []


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


def load(path: Path, trust: Trust = Trust()) -> Loaded:
    """Verify, load and test. Variants are tried in the manifest's order, each on every device that may be used; of the
    devices that pass the fastest is taken. ``BundleError`` when none passes.
    """
    with Archive(path) as archive:
        signed_by = signature.require(archive, trust.keys)
        refusals: list[str] = []
        for variant in archive.manifest.variants:
            passed: list[tuple[float, float, OnnxModel]] = []
            for device in providers(trust.device):
                try:
                    model = OnnxModel(archive, variant, device)
                    deviation, latency = self_test(archive, model)
                    if trust.budget_ms is not None and latency > trust.budget_ms:
                        slow = f"{latency:.1f} ms a frame, bundle.budget_ms is {trust.budget_ms:g}"
                        raise BundleError(f"{path}: variant {variant} on {device} takes {slow}")
                except BundleError as error:
                    refusals.append(str(error))
                    continue
                passed.append((latency, deviation, model))
            if passed:
                latency, deviation, model = min(passed, key=lambda one: one[0])
                notice = archive.manifest.notice
                return Loaded(model, path, notice, deviation, latency, signed_by, tuple(refusals))
    raise BundleError(refusals[0])


class Store:
    """The ``bundles`` folder of a state folder. Any process may use it; each step is atomic."""

    def __init__(self, state: Path) -> None:
        self.folder = state / "bundles"
        self._pointer = self.folder / "active.json"

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

    def stamp(self) -> tuple[int, int] | None:
        """Changes whenever the pointer does: cheap enough to look at every second."""
        try:
            facts = self._pointer.stat()
        except OSError:
            return None
        return facts.st_ino, facts.st_mtime_ns

    def install(self, source: Path, keys: Path | None = None, initial: str = SHIPPED) -> str:
        """Copy a bundle into the store and verify the copy whole. Its name. ``BundleError`` for what is refused."""
        if not source.is_file():
            raise BundleError(f"{source}: no such file; give the path of a {SUFFIX} file")
        self._make()
        copy = self.folder / f".{uuid.uuid4()}.tmp"
        try:
            try:
                shutil.copyfile(source, copy)
                _sync(copy)
            except OSError as error:
                raise BundleError(f"{source}: cannot be copied to {self.folder}: {error.strerror}") from None
            with Archive(copy) as archive:
                signature.require(archive, keys)
                name = f"{archive.manifest.name}-{archive.manifest.version}"
                self._put(copy, name, archive)
        except BundleError as error:
            raise BundleError(str(error).replace(str(copy), str(source))) from None
        finally:
            copy.unlink(missing_ok=True)
        self._tidy(initial)
        return name

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
        if self.path(name) is None and name != SHIPPED:
            raise BundleError(f"{name}: not installed; installed are {', '.join(self.names()) or 'none'}")
        pointer = self._readable_pointer()
        before = pointer or Pointer(initial)
        name = name.removesuffix(SUFFIX)
        if before.active != name or pointer is None:
            history = [one for one in [*before.history, before.active] if one != name]
            self._make()
            self._point(Pointer(name, history[-HISTORY:]))

    def rollback(self) -> str:
        """Go back to what judged before. Its name."""
        pointer = self.pointer()
        history = [one for one in (pointer.history if pointer else []) if self._there(one)]
        if not history:
            raise BundleError("nothing to go back to; activate an installed bundle by name")
        self._point(Pointer(history[-1], history[:-1]))
        return history[-1]

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

    def _point(self, pointer: Pointer) -> None:
        temporary = self.folder / f".{uuid.uuid4()}.tmp"
        try:
            temporary.write_bytes(msgspec.json.encode(pointer))
            _sync(temporary)
            temporary.replace(self._pointer)
        except OSError as error:
            raise BundleError(f"{self._pointer}: {error.strerror}; the active bundle is unchanged") from None
        finally:
            temporary.unlink(missing_ok=True)
        _sync(self.folder)

    def _tidy(self, initial: str) -> None:
        """Keep the newest, what is active or may be needed again; leftovers of a kill go."""
        pointer = self._readable_pointer()
        needed = {initial.removesuffix(SUFFIX), *([pointer.active, *pointer.history] if pointer else [])}
        spare = [name for name in self.names() if name not in needed]
        for left in self.folder.glob(".*.tmp"):
            if time.time() - left.stat().st_mtime > _LEFTOVER_S:
                left.unlink(missing_ok=True)
        for name in spare[:-KEEP]:
            (self.folder / f"{name}{SUFFIX}").unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
