"""A small service manager that speaks systemd's notification protocol, for tests of what it would do to the agent.

As systemd does for ``Type=notify``, ``WatchdogSec=`` and ``Restart=always``: the watchdog counts from READY=1 to
STOPPING=1; time without WATCHDOG=1 ends the process with SIGABRT; a process that ends otherwise than asked is started
again.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tests.support.station import until


class Supervisor:
    """``with Supervisor(command, log, watchdog_s)``: started on entry, stopped by SIGTERM on leaving."""

    def __init__(self, command: Sequence[str], log: Path, watchdog_s: float | None) -> None:
        self._command, self._log, self._watchdog_s = list(command), log, watchdog_s
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0weldwatch-test-" + os.urandom(8).hex())  # an abstract name: no file, no length limit
        self._socket.settimeout(0.05)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.told: list[str] = []  #: every message, over all lives
        self.ends: list[int] = []  #: exit codes, as they came
        self.aborted = 0  #: how many lives the watchdog ended
        self.ready_at: list[float] = []
        self.ended_at: list[float] = []
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Supervisor:
        self._thread.start()
        try:
            until(lambda: self.ready_at, "the first READY=1", 60)
        except AssertionError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopping.set()
        self._thread.join(30)
        self._socket.close()
        assert not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._one_life()
            self._stopping.wait(0.2)

    def _one_life(self) -> None:
        environment = {**os.environ, "NOTIFY_SOCKET": "@" + self._socket.getsockname()[1:].decode()}
        with self._log.open("ab") as log:
            self.process = process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=self._asks(environment)
            )
        deadline: float | None = None
        try:
            while process.poll() is None:
                if self._stopping.is_set():
                    process.send_signal(signal.SIGTERM)
                    process.wait(20)
                    break
                deadline = self._hear(deadline)
                if deadline is not None and time.monotonic() > deadline:
                    self.aborted += 1
                    process.send_signal(signal.SIGABRT)
                    process.wait(5)
        finally:
            if process.poll() is None:
                process.kill()
            self.ends.append(process.wait())
            self.ended_at.append(time.monotonic())
            heard = -1
            while heard < len(self.told):  # what it said last
                heard = len(self.told)
                self._hear(None)

    def _asks(self, environment: dict[str, str]) -> dict[str, str]:
        if self._watchdog_s is not None:
            environment["WATCHDOG_USEC"] = str(int(self._watchdog_s * 1e6))
        return environment

    def _hear(self, deadline: float | None) -> float | None:
        """The next message, if there is one; until when the one after it must come."""
        try:
            message = self._socket.recv(4096).decode()
        except TimeoutError:
            return deadline
        self.told.append(message)
        lines = message.splitlines()
        if "READY=1" in lines:
            self.ready_at.append(time.monotonic())
        if "STOPPING=1" in lines:
            return None
        if self._watchdog_s is not None and self.ready_at and {"READY=1", "WATCHDOG=1"} & set(lines):
            return time.monotonic() + self._watchdog_s
        return deadline
