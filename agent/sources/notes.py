"""One log line a file that needs one, and no flood of them.

Invariants: a path is named once; after ``LIMIT`` paths one last line says that further ones are not named.
"""

from __future__ import annotations

import os
import stat

from agent.frame import readable_name
from agent.health import Health
from agent.logs import log

LIMIT = 1000

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
    """What a source says of single files."""

    def __init__(self, source: str, health: Health) -> None:
        self._source, self._health = source, health
        self._said: set[bytes] = set()

    def once(self, path: bytes, what: str) -> None:
        """Warn of a file, once."""
        if path in self._said or len(self._said) > LIMIT:
            return
        self._said.add(path)
        if len(self._said) > LIMIT:
            _log.warning("source %s: %d files were warned of; further ones are not named", self._source, LIMIT)
            return
        _log.warning("source %s: %s: %s", self._source, readable_name(path), what)

    def odd(self, path: bytes, facts: os.stat_result) -> None:
        """An entry under an image's name that is no regular file: said and counted, once."""
        if path not in self._said and len(self._said) <= LIMIT:
            self._health.count("odd_entries")
        self.once(path, _KINDS.get(stat.S_IFMT(facts.st_mode), "not a regular file, not opened"))
