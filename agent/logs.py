"""Logs for a technician at 3 a.m., and for the programs that read the journal.

A level is a consequence: WARNING nothing is lost, ERROR data is lost or someone must act. Each such line begins with a
stable code (``broker_away: …``, or ``source torch: camera_stalled: …``) that ``docs/operations.md`` lists.

Invariants: a message is one line, whatever a file is called; in JSON the code and the source are fields of their own.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Mapping

from agent.clock import iso_utc

LOGGER = "weldwatch"
_SOURCE = "source %s: "
_CODE = re.compile(r"([a-z]+(?:_[a-z]+)*)(?::(?P<source>[^:]+))?(?:: | is over)")
#: Level → priority of the journal, as sd-daemon(3) has them.
_PRIORITY = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}


def log(room: str) -> logging.Logger:
    """The logger of a room, e.g. ``log("sources")``."""
    return logging.getLogger(f"{LOGGER}.{room}")


def code_of(record: logging.LogRecord) -> tuple[str | None, str | None]:
    """The stable code that a line leads with, and the source it is about; None for what has none."""
    message, source = record.getMessage(), None
    if str(record.msg).startswith(_SOURCE) and isinstance(record.args, tuple) and record.args:
        source = str(record.args[0])
        message = message[len(_SOURCE % source) :]
    found = _CODE.match(message)
    if not found:
        return None, source
    return found[1], source or found["source"]


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        from datetime import datetime, timezone

        code, source = code_of(record)
        entry = {
            "time": iso_utc(datetime.fromtimestamp(record.created, timezone.utc)),
            "level": record.levelname,
            "code": code,
            "message": record.getMessage(),
            "room": record.name.partition(".")[2],
            "source": source,
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def printable(text: str) -> str:
    """Names of files and the words of a bundle are somebody else's: no control character reaches a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


class _OneLine(logging.Formatter):
    """A message is one line, whatever a file is called; only a traceback of our own follows on more."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's own name
        return printable(super().formatMessage(record))


class _Journal(logging.Formatter):
    """Each line with its priority, so that ``journalctl -p warning`` finds it."""

    def __init__(self, form: logging.Formatter) -> None:
        super().__init__()
        self._form = form

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_PRIORITY.get(record.levelname, 6)}>"
        return "\n".join(prefix + line for line in self._form.format(record).splitlines())


def to_journal(environment: Mapping[str, str] = os.environ, descriptor: int = 2) -> bool:
    """Whether stderr goes to systemd's journal (JOURNAL_STREAM of systemd.exec(5) names its device and inode)."""
    try:
        facts = os.fstat(descriptor)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM") == f"{facts.st_dev}:{facts.st_ino}"


def set_up(*, as_json: bool | None = False, verbose: bool = False) -> None:
    """Send weldwatch's log to stderr; None: JSON if that is the journal. Libraries keep their loggers at WARNING."""
    journal = to_journal()
    form: logging.Formatter = _OneLine("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")
    if as_json or (as_json is None and journal):
        form = _JsonLines()
    elif journal:
        form = _OneLine("%(message)s")  # the journal has time and priority of its own
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Journal(form) if journal else form)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(LOGGER).setLevel(logging.DEBUG if verbose else logging.INFO)
