"""Hearing of new files: one inotify descriptor over a tree of folders, read in the source's own thread.

Invariants
- What is heard is a hint and never the truth: the source looks at the file itself, and rescans.
- Trouble is never swallowed: a watch that cannot be had raises, an overflow is reported, a lost root is reported.
- The watch holds no descriptor of the watched file system, so a share can be unmounted under it.
"""

from __future__ import annotations

import errno
import os
import select
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from agent.frame import readable_name
from agent.health import Health
from agent.logs import log
from agent.sources import linux

_log = log("sources")

_MASK = (
    linux.IN_CREATE | linux.IN_MOVED_TO | linux.IN_CLOSE_WRITE | linux.IN_DELETE_SELF | linux.IN_MOVE_SELF
    | linux.IN_ONLYDIR | linux.IN_EXCL_UNLINK
)  # fmt: skip
_BUFFER = 256 * 1024

#: File systems whose other clients' writes make no local event.
_REMOTE = ("nfs", "cifs", "smb", "9p", "ceph", "gluster", "afs", "fuse", "virtiofs", "vboxsf", "prl_fs", "lustre")

#: errno to what the operator can do about it.
REMEDIES = {
    errno.ENOSPC: "raise sysctl fs.inotify.max_user_watches",
    errno.EMFILE: "raise sysctl fs.inotify.max_user_instances",
}


@dataclass
class Heard:
    """What happened since the last reading; paths are relative to the root."""

    files: set[bytes] = field(default_factory=set)  #: may be new, changed or whole
    folders: set[bytes] = field(default_factory=set)  #: appeared
    overflow: bool = False  #: the kernel dropped events
    root_lost: bool = False  #: the root was removed, moved or unmounted


class TreeWatch:
    """Watches folders below ``root``. Raises ``OSError`` where inotify cannot be had."""

    def __init__(self, root: bytes) -> None:
        self._root = root
        self._fd = linux.inotify_init()
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._folders: dict[int, bytes] = {}

    def add(self, folder: bytes) -> None:
        """Watch one folder (b"" is the root); again is harmless. ``OSError`` as inotify_add_watch(2) gives it."""
        follow = 0 if folder == b"" else linux.IN_DONT_FOLLOW  # the root may be a link that the operator configured
        descriptor = linux.inotify_add_watch(self._fd, os.path.join(self._root, folder), _MASK | follow)
        self._folders[descriptor] = folder

    def keep_only(self, folders: Iterable[bytes]) -> None:
        """Let go of the watches on folders that are not there any more (moved out of the tree)."""
        wanted = set(folders)
        for descriptor in [d for d, folder in self._folders.items() if folder not in wanted]:
            del self._folders[descriptor]
            try:
                linux.inotify_rm_watch(self._fd, descriptor)
            except OSError as error:
                if error.errno != errno.EINVAL:  # EINVAL: the kernel has dropped it already
                    raise

    def read(self, timeout: float) -> Heard:
        """Wait up to ``timeout`` seconds for something to happen, and take all that has."""
        heard = Heard()
        if not self._poll.poll(max(0.0, timeout) * 1000):
            return heard
        while True:
            try:
                buffer = os.read(self._fd, _BUFFER)
            except BlockingIOError:
                return heard
            for descriptor, mask, name in linux.inotify_events(buffer):
                self._take(heard, descriptor, mask, name)
            if len(buffer) < _BUFFER // 2:
                return heard

    def _take(self, heard: Heard, descriptor: int, mask: int, name: bytes) -> None:
        if mask & linux.IN_Q_OVERFLOW:
            heard.overflow = True
            return
        folder = self._folders.get(descriptor)
        if folder is None:
            return
        if mask & (linux.IN_IGNORED | linux.IN_UNMOUNT | linux.IN_DELETE_SELF | linux.IN_MOVE_SELF):
            heard.root_lost |= folder == b""
            if mask & linux.IN_IGNORED:
                del self._folders[descriptor]
            return
        path = os.path.join(folder, name)
        (heard.folders if mask & linux.IN_ISDIR else heard.files).add(path)

    def close(self) -> None:
        """Let go of everything."""
        os.close(self._fd)


def is_remote(path: bytes, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether ``path`` lies on a network file system, where what others write makes no event here."""
    best, kind = -1, b""
    real = os.path.realpath(path)
    try:
        lines = mounts.read_bytes().splitlines()
    except OSError:
        return False
    for line in lines:
        before, _, after = line.partition(b" - ")
        point = before.split(b" ")[4].decode("unicode_escape").encode("latin-1")  # blanks are written as \040
        inside = real == point or real.startswith(point.rstrip(b"/") + b"/")
        if inside and len(point) >= best:
            best, kind = len(point), after.split(b" ")[0]
    return kind.decode(errors="replace").startswith(_REMOTE)


class Watching:
    """Events where they can be had, plain waiting where not; says on health and in the log which of the two it is."""

    def __init__(self, source: str, root: bytes, rescan_s: float, health: Health) -> None:
        self._source, self._root, self._rescan_s, self._health = source, root, rescan_s, health
        self._tree: TreeWatch | None = None
        self._problem = f"folder_not_watched:{source}"
        self._failure: OSError | None = None
        self.remote = False

    @property
    def polling(self) -> bool:
        """Whether new files are found by looking only, at least in a part of the tree."""
        return self._tree is None or self.remote or self._failure is not None

    def start(self, *, afresh: bool) -> None:
        """Before a scan: have a watch, a new one where the root is a new one."""
        if afresh:
            self.close()
        self._failure = None
        if self._tree is not None:
            return
        try:
            self._tree = TreeWatch(self._root)
        except OSError as error:
            self._failure = error
        remote, self.remote = self.remote, is_remote(self._root)
        if self.remote and not remote:
            _log.warning(
                "source %s: folder_polled: %s is a network mount, which reports no new files; "
                "looking every %g s instead (rescan_s)",
                self._source, readable_name(self._root), self._rescan_s,
            )  # fmt: skip

    def add(self, folder: bytes) -> None:
        """Watch a folder that is about to be scanned."""
        if self._tree is None:
            return
        try:
            self._tree.add(folder)
        except OSError as error:
            # What vanished, became something else or may not be read is the scan's to find and to report.
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
                self._failure = error

    def finish(self, folders: Iterable[bytes] | None) -> None:
        """After a scan: what it found (None where it could not see all), and whether all of it is watched."""
        if self._tree is not None and folders is not None:
            self._tree.keep_only(folders)
        if self._failure is None:
            self._health.over(self._problem, "the whole folder is watched")
            return
        code = self._failure.errno or 0
        if self._health.raise_problem(self._problem, self._failure.strerror or str(self._failure)):
            _log.warning(
                "source %s: folder_not_watched: %s cannot be watched whole (%s); looking every %g s instead; "
                "to remedy: %s",
                self._source, readable_name(self._root), self._failure.strerror, self._rescan_s,
                REMEDIES.get(code, "see the error"),
            )  # fmt: skip

    def wait(self, timeout: float, stop: threading.Event) -> Heard:
        """Wait up to ``timeout`` seconds for events."""
        if self._tree is None:
            stop.wait(timeout)
            return Heard()
        return self._tree.read(timeout)

    def close(self) -> None:
        """Let go of the watch."""
        if self._tree is not None:
            self._tree.close()
            self._tree = None
