"""Letting go of a file once its result is durable: keep, archive, delete, or move to ``rejected`` with its reason.

    rejected/
      .weldwatch-<source>-<key>.json   the intent, written before the frame is offered: why, once its result is durable
      shift1/bad.png                   the image, at its relative path, never overwriting (``bad_1.png``)
      shift1/bad.png.reason.json       a copy of the intent, written just before the image comes

Invariants
- Only the file that was inspected is touched (same inode, size and modification time); another under its name stays.
- A kill at any point leaves the image in one place at least; what was begun is finished when the file is met again.
- Across devices the copy and its folder are synced before the source is unlinked; within one a rename moves it whole.
- Files move in a thread of their own (``releasing``); what it could not do, a later scan hands in again.
- Limit: an intent is written before its frame is offered, in the source's thread. A folder for what is rejected that
  hangs therefore holds up this one source at its next bad image.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterable, Sequence

from agent.config import FolderConfig
from agent.errors import ImageError
from agent.frame import Frame
from agent.health import Health
from agent.logs import log
from agent.sources import files, moving
from agent.sources.identity import sidecar_names
from agent.sources.releasing import Entry, Releases
from agent.sources.settling import Signature

_log = log("sources")


class Disposal:
    """What becomes of a source's files. ``release`` may be called from any thread, the rest is the source's."""

    def __init__(self, config: FolderConfig, root: bytes, health: Health) -> None:
        self._source, self._root, self._health = config.name, root, health
        self._after = config.after
        self._archive = os.fsencode(os.path.abspath(config.archive)) if config.archive else None
        self._rejected = os.fsencode(os.path.abspath(config.rejected)) if config.rejected else None
        # Sources may share one folder for what they reject, and know their own intents.
        self._prefix = f".weldwatch-{hashlib.blake2b(config.name.encode(), digest_size=4).hexdigest()}-"
        self.releases = Releases(config.name, self._let_go, health)
        self._remembered = False
        self._unmet: set[bytes] = set()  #: intents of an earlier process whose files were not met yet
        self._lock = threading.Lock()  # guards the two below
        self._expected: dict[bytes, Entry] = {}
        self._rejects: set[bytes] = set()  #: keys that have an intent

    @property
    def keeps(self) -> bool:
        """Whether good frames simply stay where they are."""
        return self._after == "keep"

    def remember_intents(self) -> None:
        """At the start: which files a killed agent meant to reject."""
        if self._rejected is None or self._remembered:
            return
        try:
            names = os.listdir(self._rejected)
        except FileNotFoundError:
            self._remembered = True
            return
        except OSError as error:
            self.releases.trouble(self._rejected, error)
            return
        for name in (os.fsdecode(name) for name in names):
            if name.startswith(self._prefix) and name.endswith(".json"):
                try:
                    self._rejects.add(bytes.fromhex(name[len(self._prefix) : -len(".json")]))
                except ValueError:
                    continue  # not a name of ours
        self._unmet, self._remembered = set(self._rejects), True

    def met(self, keys: Collection[bytes]) -> None:
        """The source met these files."""
        if self._unmet:
            self._unmet.difference_update(keys)

    def all_met(self) -> None:
        """Every file was met: an intent without one was carried out, or its file has gone."""
        for key in self._unmet:
            try:
                _unlink(self._intent(key))
            except OSError as error:
                self.releases.trouble(self._intent(key), error)
            with self._lock:
                self._rejects.discard(key)
        self._unmet.clear()

    def expect(self, path: bytes, signature: Signature, frame: Frame) -> None:
        """This frame is about to be offered; ``release`` will name its key."""
        if frame.problem is not None and self._rejected is not None:
            self._intend(frame, frame.problem)
        elif self.keeps:
            return
        with self._lock:
            self._expected[frame.key] = Entry(frame.key, path, signature)

    def _intend(self, frame: Frame, problem: ImageError) -> None:
        assert self._rejected is not None
        reason = {
            "source": frame.source,
            "image": frame.name,
            "code": problem.code,
            "detail": problem.detail,
            "sha256": frame.sha256,
            "bytes": frame.bytes,
        }
        try:
            os.makedirs(self._rejected, exist_ok=True)
            with open(self._intent(frame.key), "w", encoding="utf-8") as file:
                json.dump(reason, file, ensure_ascii=False)
                file.write("\n")
        except OSError as error:
            # The file can still be moved, only its reason will be missing; the result has it.
            self.releases.trouble(self._rejected, error)
        with self._lock:
            self._rejects.add(frame.key)

    def _intent(self, key: bytes) -> bytes:
        assert self._rejected is not None
        return os.path.join(self._rejected, f"{self._prefix}{key.hex()}.json".encode())

    def wanted(self, key: bytes) -> bool:
        """Whether a file that has its result already is still to be let go."""
        return not self.keeps or key in self._rejects

    def release(self, keys: Sequence[bytes]) -> None:
        """These frames are durable."""
        with self._lock:
            entries = [entry for key in keys if (entry := self._expected.pop(key, None)) is not None]
        self.releases.hand_in(entries)

    def _let_go(self, entry: Entry) -> None:
        with self._lock:
            reject = entry.key in self._rejects
        folder, name = files.split(entry.path)
        os.stat(self._root)  # a share that is away is trouble; a folder below that is gone took its files with it
        try:
            with files.folder_fd(self._root, folder) as at:
                if moving.is_still(name, at, entry.signature):
                    self._act(entry, folder, name, at, reject=reject)
        except (FileNotFoundError, NotADirectoryError):
            if self._is_there(entry):
                raise  # then it is the target's folder that is not
        if reject:
            _unlink(self._intent(entry.key))
            with self._lock:
                self._rejects.discard(entry.key)

    def _is_there(self, entry: Entry) -> bool:
        folder, name = files.split(entry.path)
        try:
            with files.folder_fd(self._root, folder) as at:
                return moving.is_still(name, at, entry.signature)
        except OSError:
            return False

    def _act(self, entry: Entry, folder: bytes, name: bytes, at: int, *, reject: bool) -> None:
        if reject:
            self._reject(entry, folder, name, at)
        elif self._after == "archive":
            assert self._archive is not None
            self._move_with_sidecar(self._archive, folder, name, at, entry.signature)
        elif self._after == "delete":
            self._delete(name, at, entry.signature)

    def _delete(self, name: bytes, at: int, signature: Signature) -> None:
        if not moving.delete(name, at, signature):
            return
        for beside in sidecar_names(name):
            facts = moving.lstat(beside, at)
            if facts is not None:
                moving.delete(beside, at, files.signature_of(facts))

    def restore(self, hidden: Iterable[bytes]) -> None:
        """Give back what a killed agent was about to remove; the ledger knows it, so it is let go again."""
        for path in hidden:
            folder, name = files.split(path)
            try:
                with files.folder_fd(self._root, folder) as at:
                    moving.restore(name, at)
            except OSError as error:
                self.releases.trouble(path, error)

    def _reject(self, entry: Entry, folder: bytes, name: bytes, at: int) -> None:
        """The reason first, then the image: a kill leaves the intent, and the image where it is met again."""
        rejected = self._rejected
        assert rejected is not None

        def reason_of(moved: bytes) -> bytes:
            return os.path.join(rejected, folder, moving.fitting(moved, b".reason.json"))

        def write_reason(moved: bytes) -> None:
            try:
                shutil.copyfile(self._intent(entry.key), reason_of(moved))
            except FileNotFoundError:
                pass  # it could not be written when the frame was offered, which was reported then

        if self._move_with_sidecar(rejected, folder, name, at, entry.signature, write_reason) is not None:
            self._health.count("files_rejected")

    def _move_with_sidecar(
        self,
        target: bytes,
        folder: bytes,
        name: bytes,
        at: int,
        signature: Signature,
        before: Callable[[bytes], None] | None = None,
    ) -> bytes | None:
        """Move the image and its sidecar below ``target``; the name it got, None where it was no longer the same."""
        into = os.path.join(target, folder)
        os.makedirs(into, exist_ok=True)
        with files.folder_fd(into, b"") as there:
            moved = moving.move(name, at, there, signature, before=before)
            if moved is None:
                return None
            for beside, renamed in zip(sidecar_names(name), sidecar_names(moved), strict=True):
                facts = moving.lstat(beside, at)
                if facts is not None:
                    moving.move(beside, at, there, files.signature_of(facts), wish=renamed)
        return moved


def _unlink(path: bytes) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
