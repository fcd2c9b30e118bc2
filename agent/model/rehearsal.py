"""A bundle is loaded and tested in a process of its own first, beside a station that works.

Why: onnxruntime holds Python's lock while it makes a session, and a device may build its engine for minutes; in the
agent's process every frame would wait so long. And a graph that crashes the native library must not take the agent with
it. What the rehearsal found best, and the engines that it left, make the agent's own loading short.

    stdin: path and trust as JSON     ─▶  stdout: {"variant", "device", "refusals"} or {"error"} as JSON
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from agent.errors import BundleError, RetryError
from agent.model.loading import Choice, Trust, load

LIMIT_S = 1800.0  #: an engine for a small board takes minutes; what takes longer hangs
_NICE = 10  #: beside a line that works


class _Wish(msgspec.Struct, frozen=True):
    path: str
    keys: str | None
    device: str
    budget_ms: float | None
    engines: str | None


class _Outcome(msgspec.Struct, frozen=True):
    choice: Choice | None = None
    error: str | None = None


class Rehearsal:
    """At most one at a time; ``cancel`` ends it from another thread."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._cancelled = False

    def run(self, path: Path, trust: Trust) -> Choice:
        """Load and test ``path`` in a child: what to take. ``BundleError`` when nothing passes, or it crashes."""
        wish = _Wish(
            str(path), str(trust.keys) if trust.keys else None, trust.device, trust.budget_ms,
            str(trust.engines) if trust.engines else None,
        )  # fmt: skip
        command = [sys.executable, "-I", "-m", "agent.model.rehearsal"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            self._process = process
            if self._cancelled:
                process.kill()
            try:
                told, _ = process.communicate(msgspec.json.encode(wish), LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise BundleError(f"{path}: not loaded after {LIMIT_S:g} s; it is given up") from None
            finally:
                self._process = None
        if self._cancelled:
            raise RetryError("the agent stops")
        try:
            outcome = msgspec.json.decode(told, type=_Outcome)
        except msgspec.DecodeError:
            how = signal.Signals(-process.returncode).name if process.returncode < 0 else f"code {process.returncode}"
            raise BundleError(f"{path}: loading and testing it ended the process ({how})") from None
        if outcome.choice is None:
            raise BundleError(outcome.error or f"{path}: refused")
        return outcome.choice

    def cancel(self) -> None:
        """End it; ``run`` raises ``RetryError``, now and from now on."""
        self._cancelled = True
        process = self._process
        if process is not None:
            process.kill()


def main() -> None:
    """The child: what it is told on stdin, once."""
    os.nice(_NICE)
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the agent, which ends us in its order of stop
        signal.signal(number, signal.SIG_IGN)
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # what a library prints must not get between
        wish = msgspec.json.decode(sys.stdin.buffer.read(), type=_Wish)
        trust = Trust(
            Path(wish.keys) if wish.keys else None, wish.device, wish.budget_ms,
            Path(wish.engines) if wish.engines else None,
        )  # fmt: skip
        try:
            loaded = load(Path(wish.path), trust)
            outcome = _Outcome(Choice(loaded.model.variant, loaded.model.device, loaded.refusals))
        except BundleError as error:
            outcome = _Outcome(error=str(error))
        out.write(msgspec.json.encode(outcome))


if __name__ == "__main__":
    main()
