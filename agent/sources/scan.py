"""Looking through the whole tree: the truth that events only hint at.

Invariants: each folder is watched before it is read, so that what comes later makes an event; links are never followed;
what cannot be read is an error on the list, never taken for empty, and costs no other entry.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterator, Sequence

from agent.sources import files
from agent.sources.moving import HIDDEN


class Patterns:
    """Which names are images: patterns on the base name, ignoring case; dot files never."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._matches = re.compile("|".join(fnmatch.translate(pattern.lower()) for pattern in patterns)).match

    def match(self, name: bytes) -> bool:
        """Whether a base name is that of an image."""
        return not name.startswith(b".") and self._matches(os.fsdecode(name).lower()) is not None


class Scan:
    """One walk. After ``walk`` is used up, ``errors``, ``folders`` and ``hidden`` tell how it went."""

    def __init__(
        self,
        root: bytes,
        patterns: Patterns,
        watch: Callable[[bytes], None],
        odd: Callable[[bytes, os.stat_result], None],
        unmatched: Callable[[bytes], None],
    ) -> None:
        self._root, self._patterns, self._watch, self._odd, self._unmatched = root, patterns, watch, odd, unmatched
        self.errors: list[tuple[bytes, OSError]] = []
        self.folders: set[bytes] = set()
        self.hidden: list[bytes] = []  #: images that somebody is removing just now, or was when it was killed

    def walk(self, start: bytes = b"") -> Iterator[tuple[bytes, os.stat_result]]:
        """Every image below ``start``, as (path relative to the root, lstat)."""
        waiting = [start]
        while waiting:
            folder = waiting.pop()
            try:
                with files.folder_fd(self._root, folder) as fd:
                    self._watch(folder)
                    self.folders.add(folder)
                    yield from self._in_folder(folder, fd, waiting)
            except (FileNotFoundError, NotADirectoryError) as error:
                if folder == b"":
                    self.errors.append((folder, error))  # elsewhere it was removed meanwhile, which is no error
            except OSError as error:
                self.errors.append((folder, error))

    def _in_folder(self, folder: bytes, fd: int, waiting: list[bytes]) -> Iterator[tuple[bytes, os.stat_result]]:
        prefix = folder + b"/" if folder else b""
        with os.scandir(fd) as entries:
            for entry in entries:
                path = prefix + os.fsencode(entry.name)
                try:
                    facts = self._image(entry, path, waiting)
                except FileNotFoundError:
                    continue  # removed meanwhile
                except OSError as error:  # a stale handle, a bad sector: the others in the folder are none the worse
                    self.errors.append((path, error))
                    continue
                if facts is not None:
                    yield path, facts

    def _image(self, entry: os.DirEntry[str], path: bytes, waiting: list[bytes]) -> os.stat_result | None:
        """lstat of an entry that is an image; None for any other, each of which is noted as what it is."""
        name = os.fsencode(entry.name)
        if name.startswith(b"."):
            if name.startswith(HIDDEN) and self._patterns.match(name[len(HIDDEN) :]):
                self.hidden.append(path)
            return None
        is_folder = entry.is_dir(follow_symlinks=False)
        if is_folder:
            waiting.append(path)
        if not self._patterns.match(name) and not (entry.is_symlink() and _leads_to_a_folder(entry)):
            if not is_folder and entry.is_file(follow_symlinks=False):
                self._unmatched(path)
            return None
        facts = entry.stat(follow_symlinks=False)
        if files.is_regular(facts):
            return facts
        self._odd(path, facts)
        return None


def _leads_to_a_folder(link: os.DirEntry[str]) -> bool:
    try:
        return link.is_dir()
    except OSError:  # it leads in a circle, or where we may not look
        return False
