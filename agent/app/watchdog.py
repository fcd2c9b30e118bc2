"""Ends an agent that stands still, so that it is started again.

    every thread that owes progress ─Pulse─▶ watchdog ─WATCHDOG=1─▶ service manager
                                                │
                                                └── no progress for ``limit_s``: stacks to the log, exit code 1

Invariants
- Fed by progress, not by being alive. A thread at rest owes none: an idle night, a broker that is away, a full disk and
  the self-test of another bundle (in a thread of its own) end nothing.
- Time is counted in looks, not by a clock: a machine that was suspended, or a process that was stopped as a whole, has
  not looked meanwhile.
- Should this thread itself stand still (a native call that never gives the interpreter back), the manager hears nothing
  and ends the process. Nothing is lost either way: what has no result is still with its source.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import NoReturn

from agent.app.notify import Notify
from agent.logs import log
from agent.pulse import Pulse

_LOOKS = 5  #: in ``limit_s``; as many as that without progress, less one, are standing still
_STATUS_S = 10.0  #: how often ``systemctl status`` gets a new line where no watchdog is wanted
_log = log("app")


class Watchdog:
    """Watches from ``watching`` on. Without a limit, and with no manager that listens, it does nothing."""

    def __init__(self, notify: Notify | None = None, limit_s: float | None = None) -> None:
        """``limit_s``: the longest that a step may take; default: half of what the manager waits, if it does."""
        self._notify = notify or Notify()
        limits = [limit for limit in (limit_s, (self._notify.watchdog_s or 0) / 2) if limit]
        self._limit_s = min(limits, default=None)
        self._over = threading.Event()
        self._seen: dict[str, tuple[int, int]] = {}  # name → count at the last look, looks since it changed

    @contextlib.contextmanager
    def watching(self, pulses: Mapping[str, Pulse], summary: Callable[[], str]) -> Iterator[None]:
        """While the block lasts the agent is at work: before it starts, after it stops."""
        thread = threading.Thread(target=self._run, args=(pulses, summary), name="watchdog", daemon=True)
        if self._limit_s is not None or self._notify:
            thread.start()
        self._notify.tell("READY=1", f"STATUS={summary()}")
        try:
            yield
        finally:
            self._over.set()
            self._notify.tell("STOPPING=1")

    def _run(self, pulses: Mapping[str, Pulse], summary: Callable[[], str]) -> None:
        pause = self._limit_s / _LOOKS if self._limit_s is not None else _STATUS_S
        while not self._over.wait(pause):
            if self._limit_s is not None and (stuck := self._stuck(pulses)):
                _end(stuck, self._limit_s)
            self._notify.tell("WATCHDOG=1", f"STATUS={summary()}")

    def _stuck(self, pulses: Mapping[str, Pulse]) -> str | None:
        """Which thread stands still, and at what. One look."""
        stuck = None
        for name, pulse in pulses.items():
            count, doing = pulse.count, pulse.doing
            before, looks = self._seen.get(name, (-1, 0))
            looks = looks + 1 if doing is not None and count == before else 0
            self._seen[name] = count, looks
            if looks >= _LOOKS - 1:
                stuck = f"the {name} does not come to the end of: {doing}"
        return stuck


def _end(stuck: str, limit_s: float) -> NoReturn:
    _log.error(
        "stuck: %s (limit %g s); the agent ends, to be started again. Nothing is lost: images without a result stay "
        "where they are. Where each thread stood:", stuck, limit_s,
    )  # fmt: skip
    sys.stderr.flush()
    faulthandler.dump_traceback(all_threads=True)
    os._exit(1)  # not sys.exit: it would wait for the thread that stands still
