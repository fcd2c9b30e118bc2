"""What a source says of its folder and of single files: one line for what needs one, and no flood of them.

Invariants: a path is named once; after ``LIMIT`` paths one last line says that further ones are not named. Of files
that no pattern matches one a suffix is named, ``SUFFIXES`` at most.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from agent.frame import readable_name
from agent.health import Health
from agent.logs import log
from agent.sources.identity import stem_of

LIMIT = 1000
SUFFIXES = 20  #: suffixes that are named because no pattern matches them

#: What lies beside images by design: sidecars, and files that are still being written.
_USUAL = frozenset((b"json", b"part", b"partial", b"filepart", b"tmp"))

_log = log("sources")

_KINDS = {
    stat.S_IFLNK: "a symbolic link, not followed",
    stat.S_IFDIR: "a folder under an image's name; looking inside it",
    stat.S_IFIFO: "a FIFO, not opened",
    stat.S_IFSOCK: "a socket, not opened",
    stat.S_IFCHR: "a device, not opened",
    stat.S_IFBLK: "a device, not opened",
}


class Notes:
    """What one source says."""

    def __init__(self, source: str, health: Health) -> None:
        self._source, self._health = source, health
        self._said: set[bytes] = set()
        self._suffixes: set[bytes] = set()

    def once(self, path: bytes, what: str) -> None:
        """Warn of a file, once."""
        if path in self._said or len(self._said) > LIMIT:
            return
        self._said.add(path)
        if len(self._said) > LIMIT:
            _log.warning(
                "source %s: odd_entries: %d files were warned of; further ones are not named", self._source, LIMIT
            )
            return
        _log.warning("source %s: odd_entry: %s: %s", self._source, readable_name(path), what)

    def odd(self, path: bytes, facts: os.stat_result) -> None:
        """An entry under an image's name that is no regular file: said and counted, once."""
        if path not in self._said and len(self._said) <= LIMIT:
            self._health.count("odd_entries")
        self.once(path, _KINDS.get(stat.S_IFMT(facts.st_mode), "not a regular file, not opened"))

    def unmatched(self, path: bytes) -> None:
        """A file that no pattern matches, which is left alone: said and counted once a suffix."""
        name = path.rpartition(b"/")[2]
        suffix = name[len(stem_of(name)) + 1 :].lower()
        if suffix in self._suffixes or suffix in _USUAL or len(self._suffixes) >= SUFFIXES:
            return
        self._suffixes.add(suffix)
        self._health.count("suffixes_unmatched")
        kind = f"*.{readable_name(suffix)}" if suffix else "without a suffix"
        last = "; further suffixes are not named" if len(self._suffixes) == SUFFIXES else ""
        _log.warning(
            "source %s: suffixes_unmatched: files %s are not inspected, as no pattern matches them, the first is %s; "
            "are they images, add them to patterns%s",
            self._source, kind, readable_name(path), last,
        )  # fmt: skip

    # -- the folder --------------------------------------------------------------------------------------------------

    def missing(self, root: bytes, error: OSError) -> None:
        """The folder cannot even be looked at."""
        detail = f"{readable_name(root)}: {error.strerror}"
        if self._health.raise_problem(f"folder_missing:{self._source}", detail):
            _log.error("source %s: folder_missing: %s; create or mount it, it is taken up then", self._source, detail)

    def scanned(self, root: bytes, errors: Sequence[tuple[bytes, OSError]]) -> None:
        """The folder is there; these folders of it could not be read."""
        self._health.over(f"folder_missing:{self._source}", "the folder is there again")
        unreadable = f"folder_unreadable:{self._source}"
        if not errors:
            self._health.over(unreadable, "every folder can be read again")
            return
        folder, error = errors[0]
        detail = f"{readable_name(folder or root)}: {error.strerror}"
        if self._health.raise_problem(unreadable, detail):
            more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
            _log.error("source %s: folder_unreadable: %s%s; give the agent's user read and search permission",
                       self._source, detail, more)  # fmt: skip

    def out_of_means(self, error: OSError) -> None:
        """The machine lacks the means to read a file: descriptors, memory."""
        if self._health.raise_problem(f"folder_out_of_means:{self._source}", error.strerror or str(error)):
            _log.error("source %s: folder_out_of_means: %s; raise the service's limits", self._source, error.strerror)

    def has_means(self) -> None:
        """It could be read."""
        self._health.over(f"folder_out_of_means:{self._source}")
