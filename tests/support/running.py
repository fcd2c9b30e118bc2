"""A source at work in a thread of its own, with a collector instead of a model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from agent.frame import Frame
from agent.health import Health
from agent.ports import Source

PATIENCE_S = 60.0


class MemoryLedger:
    """``agent.ports.SeenKeys`` over a dict, as the ledger keeps them: a key once."""

    def __init__(self) -> None:
        self.keys: dict[bytes, None] = {}

    def seen(self, keys: Sequence[bytes]) -> set[bytes]:
        return {key for key in keys if key in self.keys}

    def forget_seen(self, source: str, present: Callable[[bytes], bool]) -> int:
        gone = [key for key in self.keys if not present(key)]
        for key in gone:
            del self.keys[key]
        return len(gone)


class RunningSource:
    """Runs ``source``; collects its frames and releases each (unless ``release`` is False), as the agent does."""

    def __init__(self, source: Source, health: Health, ledger: MemoryLedger, *, once: bool, release: bool) -> None:
        self.source, self.health, self.ledger, self.release = source, health, ledger, release
        self.frames, self.at = list[Frame](), list[float]()
        self._changed, self._stop = threading.Condition(), threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(once,), daemon=True)
        self._thread.start()

    def _run(self, once: bool) -> None:
        try:
            self.source.run(self._offer, self._stop, once=once)
        except BaseException as error:  # noqa: BLE001  # shown by ``join``: a test must not lose it in a thread
            self._error = error
        with self._changed:
            self._changed.notify_all()

    def _offer(self, frame: Frame) -> bool:
        with self._changed:
            self.ledger.keys[frame.key] = None
            if self.release:
                self.source.release([frame.key])
            self.frames.append(frame)
            self.at.append(time.monotonic())
            self._changed.notify_all()
        return True

    def until(self, what: Callable[[], Any], patience: float = PATIENCE_S) -> None:
        """Wait for something that shows with a frame, or soon after."""
        end = time.monotonic() + patience
        with self._changed:
            while not what():
                assert self._error is None, repr(self._error)
                assert time.monotonic() < end, f"waited {patience} s; {len(self.frames)} frames; {self.source.state()}"
                self._changed.wait(0.02)

    def until_frames(self, number: int) -> list[Frame]:
        self.until(lambda: len(self.frames) >= number)
        return self.frames

    @property
    def state(self) -> str:
        return str(self.source.state()["state"])

    def until_state(self, state: str) -> None:
        self.until(lambda: self.state == state)

    def counter(self, name: str) -> int:
        return self.health.counters().get(name, 0)

    def names(self) -> list[str]:
        return sorted(frame.name for frame in self.frames)

    def failure(self) -> BaseException | None:
        """Wait until it has ended; what made it fail."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        self.source.close(PATIENCE_S)
        error, self._error = self._error, None
        return error

    def join(self) -> None:
        """Wait for its orderly end."""
        error = self.failure()
        assert error is None, repr(error)

    def stop(self) -> float:
        """Stop it; how many seconds that took."""
        begin = time.monotonic()
        self._stop.set()
        self.join()
        return time.monotonic() - begin
