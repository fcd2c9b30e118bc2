"""Taking one file in: open it safely, read it once, decode it once, say what it is.

Invariants
- The bytes that were hashed are the bytes that were decoded, and the file did not change while they were read.
- Every outcome is one of: a frame (with a picture or a problem), changed, gone, or not a file. Nothing is swallowed.
- A fault of ours with one file is that file's problem, logged whole; it ends neither the source nor its other files.
- Memory is bounded by ``MAX_BYTES`` and the decoder's own limit on pixels.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass

from agent.clock import Clock
from agent.errors import ImageError, TruncatedImageError
from agent.frame import FileKey, Frame, Identity, JobAt, no_job, readable_name
from agent.health import Health
from agent.image import Picture, decode
from agent.logs import log
from agent.sources import files
from agent.sources.identity import MAX_SIDECAR, Names, Sidecar, SidecarError, Told, arrival, sidecar_names
from agent.sources.settling import Signature

MAX_BYTES = 256 * 1024 * 1024  #: of one encoded image
MAX_DETAIL = 300  #: characters of what is told of a fault

#: The machine's trouble, not the file's: never the reason for a verdict.
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


_log = log("sources")


@dataclass(frozen=True)
class Read:
    """The file was read, or could not be; ``frame`` is what it is worth as it stands."""

    frame: Frame
    undecided: bool = False  #: more bytes, or a permission, could still make it whole
    unopened: bool = False  #: not a byte was read: it may become readable without changing


class Changed:
    """It changed while it was read."""


class Gone:
    """It is not there any more."""


class NotAFile:
    """It is a link, a FIFO, a device or a folder."""


Outcome = Read | Changed | Gone | NotAFile


@dataclass(frozen=True)
class Intake:
    """Reads the files of one source."""

    source: str
    root: bytes
    names: Names
    health: Health
    clock: Clock
    warn: Callable[[bytes, str], None]  #: (path, what is wrong with it); said once a file
    simulated: bool = False
    job_at: JobAt = no_job

    def key(self, path: bytes, signature: Signature) -> bytes:
        """The file's 16-byte key."""
        return FileKey(self.source, path, *signature).digest()

    def read(self, path: bytes, signature: Signature) -> Outcome:
        """Take in the file that was seen with ``signature``. ``OSError`` where the machine lacks the means to."""
        try:
            return self._opened(path, signature)
        except OSError:
            raise
        except MemoryError:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from None
        except Exception as error:  # noqa: BLE001  # a fault of ours: logged whole, and the file gets its result
            name = readable_name(path)
            _log.exception("source %s: inspection_failed: %s: %s; please report it", self.source, name, error)
            detail = " ".join(f"{type(error).__name__}: {error}".split())
            problem = ImageError("inspection_failed", detail[:MAX_DETAIL])
            return Read(self._frame(path, signature, Told(job=self._unopened_job(path)), problem, None))

    def _opened(self, path: bytes, signature: Signature) -> Outcome:
        folder, name = files.split(path)
        try:
            with files.folder_fd(self.root, folder) as at:
                return self._read(path, signature, name, at)
        except files.NotAFileError:
            return NotAFile()
        except (FileNotFoundError, NotADirectoryError):
            return Gone()
        except OSError as error:
            if error.errno in _OURS:
                raise
            if error.errno == errno.ELOOP:  # a folder on the way became a link
                return Gone()
            problem = ImageError("unreadable_file", error.strerror or str(error))
            told = Told(self.names.read(name), job=self._unopened_job(path))
            frame = self._frame(path, signature, told, problem, None)
            return Read(frame, undecided=True, unopened=True)

    def _read(self, path: bytes, signature: Signature, name: bytes, at: int) -> Outcome:
        with files.regular_file(name, at) as (fd, facts):
            if files.signature_of(facts) != signature:
                return Changed()
            job = self.job_at(arrival(facts, self.clock.now()))
            told = Told(self.names.read(name), self._sidecar(path, name, at), job)
            if signature.size > MAX_BYTES:
                problem = ImageError("file_too_large", f"{signature.size} bytes, more than {MAX_BYTES}")
                return Read(self._frame(path, signature, told, problem, None), undecided=True)
            data = files.read_exactly(fd, signature.size)
            if data is None or files.signature_of(os.fstat(fd)) != signature:
                return Changed()
        return self._decoded(path, signature, told, data)

    def _decoded(self, path: bytes, signature: Signature, told: Told, data: bytes) -> Read:
        digest = hashlib.sha256(data).hexdigest()
        begin = self.clock.monotonic()
        what: Picture | ImageError
        try:
            what = decode(data)
        except ImageError as error:
            what = error
        spent = (self.clock.monotonic() - begin) * 1000
        frame = self._frame(path, signature, told, what, digest, spent)
        growing = isinstance(what, TruncatedImageError) or (isinstance(what, Picture) and what.maybe_preallocated)
        return Read(frame, undecided=growing)

    def _frame(
        self,
        path: bytes,
        signature: Signature,
        told: Told,
        what: Picture | ImageError,
        sha256: str | None,
        decode_ms: float = 0.0,
    ) -> Frame:
        picture, problem = (what, None) if isinstance(what, Picture) else (None, what)
        exif = picture.taken_at if picture else None
        taken, origin = self.names.captured_at(exif, told, signature.mtime_ns, self.clock.now())
        identity, unknown = told.identity()
        return Frame(
            source=self.source,
            name=readable_name(path),
            key=self.key(path, signature),
            captured_at=taken,
            captured_from=origin,
            picture=picture,
            problem=problem,
            sha256=sha256,
            bytes=signature.size,
            identity=identity,
            identity_unknown=unknown,
            decode_ms=decode_ms,
            simulated=self.simulated,
        )

    def _unopened_job(self, path: bytes) -> Identity:
        """The job of a file that could not be opened; unknown where it cannot even be looked at."""
        try:
            facts = os.lstat(os.path.join(self.root, path))
        except OSError:
            return Identity()
        return self.job_at(arrival(facts, self.clock.now()))

    def _sidecar(self, path: bytes, name: bytes, at: int) -> Sidecar | None:
        """The sidecar beside an image, where there is a usable one."""
        for beside in sidecar_names(name):
            try:
                with files.regular_file(beside, at) as (fd, facts):
                    if facts.st_size > MAX_SIDECAR:
                        raise SidecarError(f"{facts.st_size} bytes, more than {MAX_SIDECAR}")
                    data = files.read_exactly(fd, facts.st_size)
                    if data is None:
                        raise SidecarError("it changed while it was read")
                    return self.names.sidecar(data)
            except (SidecarError, files.NotAFileError, OSError) as error:
                if isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ENAMETOOLONG):
                    continue
                if isinstance(error, OSError) and error.errno in _OURS:
                    raise  # the image waits: it must not lose its ids to what is no fault of its own
                self.health.count("sidecar_bad")
                reason = error.strerror if isinstance(error, OSError) else str(error) or "not a regular file"
                self.warn(path, f"its sidecar {readable_name(beside)} is not used: {reason}")
                return None
        return None
