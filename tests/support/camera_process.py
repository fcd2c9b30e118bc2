"""A simulated camera that is a process of its own, and can hang as a real one does."""

from __future__ import annotations

import signal
import subprocess


class CameraProcess:
    """Runs ``command``; with ``says`` waits until it says that on its stdout, as a line."""

    def __init__(self, *command: str, says: str | None = None) -> None:
        out = subprocess.DEVNULL if says is None else subprocess.PIPE
        self._process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
        if self._process.stdout is not None:
            assert self._process.stdout.readline().decode() == f"{says}\n", f"{command[0]} did not start"

    def pause(self) -> None:
        """Stall it with all its connections open."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
