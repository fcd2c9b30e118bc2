"""Logs for a technician at 3 a.m.

A level is a consequence: WARNING nothing is lost, ERROR data is lost or someone must act. On a terminal a line reads
``10:22:05 WARNING broker_away: …``; with ``json`` each line is one object for the journal.
"""

from __future__ import annotations

import json
import logging
import sys

from agent.clock import iso_utc

LOGGER = "weldwatch"


def log(room: str) -> logging.Logger:
    """The logger of a room, e.g. ``log("sources")``."""
    return logging.getLogger(f"{LOGGER}.{room}")


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        from datetime import datetime, timezone

        entry = {
            "time": iso_utc(datetime.fromtimestamp(record.created, timezone.utc)),
            "level": record.levelname,
            "room": record.name.partition(".")[2],
            "message": record.getMessage(),
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


def set_up(*, as_json: bool = False, verbose: bool = False) -> None:
    """Send weldwatch's log to stderr. Libraries keep their own loggers at WARNING."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if as_json else _OneLine("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(LOGGER).setLevel(logging.DEBUG if verbose else logging.INFO)
