"""What lies in an archive: a walk that remembers only what could go, and the removing of one image.

Invariants
- Only regular files that a pattern of the source matches are images, and only these go, each with its sidecar. They are
  reached component by component, without following a link, and compared before they go.
- How old an image is in the archive its change time tells, which a move sets: that of the modification is the camera's.
  A time before the first release is a clock's that was wrong, and such an age is not known.
- Memory: ``MOST`` images a list, however many there are. Nothing that a removal needs takes space.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from agent.sources import files, moving
from agent.sources.identity import sidecar_names
from agent.sources.scan import Patterns, Scan

MOST = 10_000  #: images remembered of a walk: some megabytes
KNOWN_FROM_NS = 1_767_225_600 * 10**9  #: 2026-01-01, before the first release
_EMPTY_S = 3600.0  #: a folder that was empty for so long is nobody's target just now
_BLOCK = 512  #: st_blocks counts in these


class Image(NamedTuple):
    """An image in the archive; of two the smaller one is the older one."""

    archived_ns: int
    path: bytes  #: relative to the archive
    inode: int


class Oldest:
    """The oldest ``MOST`` of all images that it is shown."""

    def __init__(self) -> None:
        self._images: list[Image] = []
        self._bound: Image | None = None  #: what is not older has no chance any more

    def show(self, image: Image) -> None:
        """Remember it, while there are not enough older ones."""
        if self._bound is None or image < self._bound:
            self._images.append(image)
            if len(self._images) >= 2 * MOST:
                self._cut_down()

    def _cut_down(self) -> None:
        self._images.sort()
        if len(self._images) > MOST:
            self._bound = self._images[MOST]
            del self._images[MOST:]

    def images(self) -> list[Image]:
        """The oldest first."""
        self._cut_down()
        return self._images

    @property
    def cut(self) -> bool:
        """Whether there are more than it remembers."""
        return self._bound is not None or len(self._images) > MOST


@dataclass
class Survey:
    """What a walk found."""

    size: int = 0  #: bytes on disk, images with their sidecars
    aged: Oldest = field(default_factory=Oldest)  #: of those that are too old
    fresh: Oldest = field(default_factory=Oldest)  #: of those that nobody has asked about yet
    oldest: Oldest = field(default_factory=Oldest)  #: of all
    errors: list[tuple[bytes, OSError]] = field(default_factory=list)


def survey(
    root: bytes, patterns: Patterns, *, old_before_ns: int, asked_up_to: Image | None, ended: Callable[[], bool]
) -> Survey:
    """Walk through the archive; folders that have long been empty go on the way. Stops early when ``ended()``."""
    found, used = Survey(), {b""}
    scan = Scan(root, patterns, watch=_nobody, odd=_nothing, unmatched=_nobody)
    for path, facts in scan.walk():
        if ended():
            return found
        used.add(files.split(path)[0])
        found.size += on_disk(facts) + sum(map(_size, sidecar_names(os.path.join(root, path))))
        image = Image(facts.st_ctime_ns, path, facts.st_ino)
        if KNOWN_FROM_NS <= image.archived_ns < old_before_ns:
            found.aged.show(image)
        if asked_up_to is None or image > asked_up_to:
            found.fresh.show(image)
        found.oldest.show(image)
    found.errors = scan.errors
    for folder in sorted(scan.folders - used, reverse=True):  # what lies in a folder comes before it
        _forget_if_empty(root, folder)
    return found


def remove(root: bytes, image: Image) -> int | None:
    """Remove an image and its sidecar: bytes set free, None where it is not there any more. ``OSError``: it stays."""
    folder, name = files.split(image.path)
    try:
        with files.folder_fd(root, folder) as at:
            facts = moving.lstat(name, at)
            if facts is None or (facts.st_ino, facts.st_ctime_ns) != (image.inode, image.archived_ns):
                return None
            freed = on_disk(facts)
            for beside in sidecar_names(name):  # before the image: what a kill leaves is met again
                if (sidecar := moving.lstat(beside, at)) is not None:
                    os.unlink(beside, dir_fd=at)
                    freed += on_disk(sidecar)
            os.unlink(name, dir_fd=at)
            return freed
    except (FileNotFoundError, NotADirectoryError):
        return None


def on_disk(facts: os.stat_result) -> int:
    """Bytes that a file takes."""
    return facts.st_blocks * _BLOCK


def _size(path: bytes) -> int:
    try:
        return on_disk(os.lstat(path))
    except OSError:  # no sidecar, or a name that is too long to be one
        return 0


def _forget_if_empty(root: bytes, folder: bytes) -> None:
    """Remove a folder that holds nothing; one that is in use, or not ours to remove, stays."""
    above, name = files.split(folder)
    try:
        with files.folder_fd(root, above) as at:
            if time.time() - os.stat(name, dir_fd=at, follow_symlinks=False).st_mtime > _EMPTY_S:
                os.rmdir(name, dir_fd=at)
    except OSError:
        return


def _nobody(_name: bytes) -> None:
    """Nobody wants to hear of it."""


def _nothing(_path: bytes, _facts: os.stat_result) -> None:
    """Links, FIFOs and the like: they stay, and take no space to speak of."""
