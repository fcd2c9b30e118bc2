"""A watched folder with a collector instead of a model, and a ledger of seen keys in memory."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from PIL import Image

from agent.clock import SystemClock
from agent.config import FolderConfig
from agent.frame import Frame
from agent.health import Health
from agent.sources.folder import FolderSource

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


class Running:
    """A folder source at work in a thread of its own; commits and releases each frame like the agent does."""

    def __init__(
        self, config: FolderConfig, ledger: MemoryLedger, zone: str = "UTC", *, release: bool = True, once: bool = False
    ) -> None:
        self.health, self.ledger, self.frames = Health(), ledger, list[Frame]()
        self.source = FolderSource(config, ZoneInfo(zone), ledger, self.health, SystemClock())
        self._release, self._taken, self._stop = release, threading.Condition(), threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(once,), daemon=True)
        self._thread.start()

    def _run(self, once: bool) -> None:
        try:
            self.source.run(self._offer, self._stop, once=once)
        except BaseException as error:  # noqa: BLE001  # shown by ``stop``: a test must not lose it in a thread
            self._error = error
        with self._taken:
            self._taken.notify_all()

    def _offer(self, frame: Frame) -> bool:
        with self._taken:
            self.ledger.keys[frame.key] = None
            if self._release:
                self.source.release([frame.key])
            self.frames.append(frame)
            self._taken.notify_all()
        return True

    def until(self, what: Callable[[], bool], patience: float = PATIENCE_S) -> None:
        """Wait for something that shows with a frame, or soon after."""
        end = time.monotonic() + patience
        with self._taken:
            while not what():
                assert self._error is None, repr(self._error)
                assert time.monotonic() < end, f"waited {patience} s; {len(self.frames)} frames came"
                self._taken.wait(0.02)

    def until_frames(self, number: int) -> list[Frame]:
        self.until(lambda: len(self.frames) >= number)
        return self.frames

    def until_state(self, state: str) -> None:
        self.until(lambda: self.source.state()["state"] == state)

    def names(self) -> list[str]:
        return sorted(frame.name for frame in self.frames)

    def join(self) -> None:
        """Wait for ``once`` to end by itself."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        assert self._error is None, repr(self._error)

    def stop(self) -> float:
        """Stop it; how many seconds that took."""
        begin = time.monotonic()
        self._stop.set()
        self.join()
        return time.monotonic() - begin


class Bench:
    """Starts sources on one capture folder, one after the other, with one ledger."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.captures, self.archive, self.rejected = (folder / name for name in ("captures", "archive", "rejected"))
        self.captures.mkdir()
        self.ledger = MemoryLedger()
        self.running: list[Running] = []

    def config(self, **keys: Any) -> FolderConfig:
        quick = {"settle_s": 0.1, "rescan_s": 30.0, "incomplete_s": 0.6}
        return FolderConfig(**{"name": "captures", "path": str(self.captures), **quick, **keys})

    def start(self, *, zone: str = "UTC", release: bool = True, **keys: Any) -> Running:
        self.running.append(Running(self.config(**keys), self.ledger, zone, release=release))
        return self.running[-1]

    def watch(self, **keys: Any) -> Running:
        """Start, and wait until it watches."""
        running = self.start(**keys)
        running.until(lambda: running.source.state()["state"] != "starting")
        return running

    def once(self, **keys: Any) -> Running:
        self.running.append(Running(self.config(**keys), self.ledger, once=True))
        self.running[-1].join()
        return self.running[-1]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    for running in bench.running:
        running.stop()


def encoded(
    form: str = "PNG", level: int = 90, size: tuple[int, int] = (24, 16), mode: str = "L", **options: Any
) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, level).save(stream, form, **options)
    return stream.getvalue()


@pytest.fixture(scope="session")
def png() -> bytes:
    return encoded()


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    return encoded
