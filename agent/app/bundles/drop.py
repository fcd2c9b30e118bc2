"""The drop folder: a bundle that is put there is installed and activated, if a trusted key has signed it.

    <drop_folder>/new.pipeline                     comes by copy, FTP, SMB or a fleet tool
    <drop_folder>/.taken/new.pipeline              being worked at; after a kill it is worked at again
    <drop_folder>/installed/new.pipeline           it judges, or did
    <drop_folder>/refused/new.pipeline             … with new.pipeline.reason.txt beside it

Invariants
- A file is taken when it has stood still and is a whole bundle; one that is not may still be on its way, and is refused
  only after it has stood still for long.
- It is claimed by a rename before anything is done with it, so that what cannot be moved is never done twice.
- A kill between any two steps ends, after the restart, where it would have ended: each step may be repeated.
- Links, FIFOs and the like are never opened; they are moved to ``refused`` as they are. A link in place of one of the
  three folders leads nowhere: who can write here must not move files that only the agent can.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from agent.bundle.archive import Archive
from agent.clock import Clock
from agent.config import BundleConfig
from agent.errors import BundleError, RetryError
from agent.health import Health
from agent.logs import log, printable
from agent.model.loading import Loaded
from agent.model.store import SUFFIX, Store

LOOK_S = 1.0
SETTLE_S = 2.0  #: stands still for so long: looked into
INCOMPLETE_S = 30.0  #: stands still for so long and is no whole bundle: refused
KEPT = 10  #: files in ``installed`` and in ``refused``
_STEM = 200  #: bytes of a name that are kept there: with what is added it must not be longer than 255
TROUBLE = "drop_folder_trouble"
_REASON = ".reason.txt"
_log = log("bundles")


@dataclass
class _Seen:
    """A file as it was when it last changed."""

    signature: tuple[int, int, int]
    since: float
    whole: bool | None = None  #: None: not looked into since


class _Places(NamedTuple):
    """The three folders, opened: as long as they are, nobody can put others in their place."""

    taken: Path
    installed: Path
    refused: Path


class DropFolder:
    """Looks every second, in a thread of its own."""

    def __init__(
        self, config: BundleConfig, store: Store, activate: Callable[[str], Loaded], health: Health, clock: Clock
    ) -> None:
        folder = Path(config.drop_folder or "")
        self._keys = Path(config.trusted_keys) if config.trusted_keys else None
        self._folder, self._initial = folder, config.initial
        self._store, self._activate, self._health, self._clock = store, activate, health, clock
        self._seen: dict[str, _Seen] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="drop folder", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more. What is being tested is not waited for: the next start goes on with it."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.look()
                self._health.over(TROUBLE)
            except OSError as error:
                self._trouble(f"{error.filename or self._folder}: {error.strerror}; it must be there and writable")
            except RetryError:
                return  # the agent stops
            except Exception as error:  # noqa: BLE001  # the thread's last line: logged whole, shown, tried again
                _log.exception("%s: unexpected", TROUBLE)
                self._health.raise_problem(TROUBLE, repr(error))
            self._stopping.wait(LOOK_S)

    def _trouble(self, detail: str) -> None:
        if self._health.raise_problem(TROUBLE, detail):
            _log.warning("%s: %s; nothing is taken from it until then", TROUBLE, detail)

    def look_settled(self) -> None:
        """What lies there now, before the agent starts: for a station that has no bundle yet."""
        try:
            self.look()
            self._stopping.wait(SETTLE_S)
            self.look()
        except OSError as error:
            self._trouble(f"{error.filename or self._folder}: {error.strerror}; it must be there and writable")

    def look(self) -> None:
        """One round. ``OSError``: the folder cannot be read, or nothing can be moved out of it."""
        with self._opened() as places:
            for left in sorted(places.taken.iterdir()):  # a kill came in between
                self._work(left, places)
            self._look(places)

    @contextmanager
    def _opened(self) -> Iterator[_Places]:
        with ExitStack() as opened:

            def place(name: str) -> Path:
                (self._folder / name).mkdir(exist_ok=True)
                handle = os.open(self._folder / name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                opened.callback(os.close, handle)
                return Path(f"/proc/self/fd/{handle}")

            yield _Places(place(".taken"), place("installed"), place("refused"))

    def _look(self, places: _Places) -> None:
        now, found = self._clock.monotonic(), {}
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or not entry.name.lower().endswith(SUFFIX):
                    continue
                try:
                    found[entry.name] = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
        self._seen = {name: one for name, one in self._seen.items() if name in found}
        stuck: OSError | None = None
        for name, facts in sorted(found.items(), key=lambda one: (one[1].st_mtime_ns, one[0])):
            if stat.S_ISDIR(facts.st_mode) or not self._is_ready(name, facts, now):
                continue
            try:
                (self._folder / name).rename(places.taken / name)
            except OSError as error:
                stuck = error
                continue
            self._work(places.taken / name, places)
        if stuck is not None:
            raise stuck

    def _is_ready(self, name: str, facts: os.stat_result, now: float) -> bool:
        """Whether to take it: it stands still and is whole, or will not become so, or is no file at all."""
        signature = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
        seen = self._seen.get(name)
        if seen is None or seen.signature != signature:
            seen = self._seen[name] = _Seen(signature, now)
        if not stat.S_ISREG(facts.st_mode):
            return True
        still = now - seen.since
        if still < SETTLE_S:
            return False
        if seen.whole is None:
            seen.whole = _is_whole(self._folder / name)
        return seen.whole or still >= INCOMPLETE_S

    # -- what was claimed --------------------------------------------------------------------------------------------

    def _work(self, file: Path, places: _Places) -> None:
        """Install, activate, put aside."""
        shown = printable(file.name)
        try:
            if not stat.S_ISREG(file.lstat().st_mode):
                raise BundleError(f"{shown}: not a regular file")
            if self._keys is None:
                raise BundleError("bundle.trusted_keys is not set; what is dropped must be signed by a trusted key")
            loaded = self._activate(self._store.install(file, self._keys, self._initial))
        except BundleError as error:
            reason = str(error).replace(str(file), shown)
            reason = reason if reason.startswith(shown) else f"{shown}: {reason}"
            _log.error("drop_refused: %s; what judges goes on", reason)
            self._health.count("bundles_dropped_refused")
            self._put_aside(file, places.refused, reason)
            return
        _log.info("drop folder: %s is installed; %s judges", shown, loaded.name)
        self._health.count("bundles_dropped_installed")
        self._put_aside(file, places.installed)

    def _put_aside(self, file: Path, folder: Path, reason: str = "") -> None:
        """Move it under the first free name; the oldest that lie there go."""
        stem, number = os.fsdecode(os.fsencode(file.name.removesuffix(SUFFIX))[:_STEM]), 0
        target = folder / f"{stem}{SUFFIX}"
        while os.path.lexists(target):
            number += 1
            target = folder / f"{stem}_{number}{SUFFIX}"
        if reason:
            target.with_name(f"{target.name}{_REASON}").write_text(reason + "\n", encoding="utf-8")
        file.rename(target)
        lying = [one for one in folder.iterdir() if one.name.lower().endswith(SUFFIX)]
        for old in sorted(lying, key=lambda one: one.lstat().st_ctime_ns)[:-KEPT]:
            old.unlink()
            old.with_name(f"{old.name}{_REASON}").unlink(missing_ok=True)


def _is_whole(file: Path) -> bool:
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        with Archive(Path(f"/proc/self/fd/{handle}")):
            return True
    except BundleError:
        return False
    finally:
        os.close(handle)
