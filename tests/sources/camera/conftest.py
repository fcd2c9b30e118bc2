"""A camera in memory, and a camera source that reads it."""

from __future__ import annotations

import io
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agent.clock import SystemClock
from agent.config import CameraConfig, ResultsConfig
from agent.errors import RetryError
from agent.frame import Frame
from agent.health import Health
from agent.sources.camera.build import grabber_of, store_of
from agent.sources.camera.grabber import Grab, Grabber
from agent.sources.camera.source import CameraSource
from tests.support.running import PATIENCE_S, MemoryLedger, RunningSource
from tests.support.stamp import HEIGHT, WIDTH, stamped


class FakeCamera:
    """A ``Grabber`` in memory: ``show`` puts a frame before it; ``pause`` lets it be silent; ``leave`` breaks it."""

    def __init__(self, *, waits: bool = False) -> None:
        self.waits = waits
        self.opened = 0
        self.open_fails: str | None = None
        self._changed = threading.Condition()
        self._shown = deque[Grab | RetryError | Exception | None]()
        self.taken = 0
        self._closed = False

    def show(self, *levels: int, stream_s: float | None = None, data: bytes | None = None) -> None:
        """Frames of a gray level each; -1 is stamped noise."""
        with self._changed:
            for level in levels:
                now = time.monotonic()
                pixels = _stamped() if level == -1 else np.full((HEIGHT, WIDTH), level, np.uint8)
                at = now if stream_s is None else stream_s
                self._shown.append(Grab(now, at, data=data) if data else Grab(now, at, pixels=pixels))
            self._changed.notify_all()

    def say(self, what: RetryError | Exception | None) -> None:
        """Break off, fail, or (None) end as a file does."""
        with self._changed:
            self._shown.append(what)
            self._changed.notify_all()

    def until_taken(self, number: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.taken >= number, PATIENCE_S)

    def open(self) -> None:
        self.opened += 1
        if self.open_fails is not None:
            raise RetryError(self.open_fails)

    def read(self) -> Grab | None:
        with self._changed:
            self._changed.wait_for(lambda: self._shown or self._closed)
            if self._closed:
                raise RetryError("closed")
            what = self._shown.popleft()
            self.taken += 1
            self._changed.notify_all()
        if isinstance(what, Exception):
            raise what
        return what

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def _stamped() -> np.ndarray:
    return np.frombuffer(stamped(), np.uint8).reshape(HEIGHT, WIDTH)


class Room:
    """The intake as a source sees it: asked for room, and held up by a test."""

    def __init__(self) -> None:
        self._changed, self._open, self._asked = threading.Condition(), True, 0

    def __call__(self, timeout_s: float) -> bool:
        with self._changed:
            self._asked += 1
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._open, timeout_s)

    def close(self) -> None:
        """There is none, whenever it is asked for."""
        with self._changed:
            self._open = False

    def hold(self) -> None:
        """From here on nothing is taken: returns once the source asks for room in vain."""
        with self._changed:
            self._open, asked = False, self._asked
            assert self._changed.wait_for(lambda: self._asked > asked, PATIENCE_S)

    def let_go(self) -> None:
        with self._changed:
            self._open = True
            self._changed.notify_all()


class Running(RunningSource):
    """A camera source at work, and a room that holds inspection up."""

    def __init__(
        self, folder: Path, grabber: Callable[[], Grabber] | None = None, *, once: bool = False, **keys: Any
    ) -> None:
        self.config = CameraConfig(**{"name": "torch", "url": "file:none", **keys})
        self.folder = folder / "results" / "frames" / "torch"
        self.room, health, ledger = Room(), Health(), MemoryLedger()
        store = store_of(self.config, ResultsConfig(directory=str(folder / "results")), SystemClock(), health)
        make = grabber or grabber_of(self.config)
        source = CameraSource(self.config, make, store, self.room, ledger, health, SystemClock())
        super().__init__(source, health, ledger, once=once, release=True)

    def levels(self) -> list[int]:
        """The mean gray level of each frame that has a picture."""
        return [round(float(np.asarray(frame.picture.image).mean())) for frame in self.frames if frame.picture]

    def saved(self, frame: Frame) -> Path:
        return self.folder / frame.name

    def stop(self) -> float:
        self.room.let_go()
        return super().stop()


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start sources; they are stopped in the end."""
    all_of_them: list[Running] = []

    def start(grabber: Grabber | None = None, **keys: Any) -> Running:
        make = None if grabber is None else lambda: grabber
        all_of_them.append(Running(tmp_path, make, **keys))
        return all_of_them[-1]

    yield start
    for running in all_of_them:
        running.stop()


@pytest.fixture
def camera() -> FakeCamera:
    return FakeCamera()


@pytest.fixture
def film() -> FakeCamera:
    return FakeCamera(waits=True)


def jpeg(level: int, size: tuple[int, int] = (160, 120)) -> bytes:
    noise = np.random.default_rng(level).integers(max(0, level - 20), min(255, level + 20), size[::-1], np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def make_jpeg() -> Callable[..., bytes]:
    return jpeg
