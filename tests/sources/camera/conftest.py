"""A camera source at work in a thread of its own, with a collector instead of a model."""

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
from tests.sources.conftest import MemoryLedger
from tests.support.stamp import HEIGHT, WIDTH, stamped

PATIENCE_S = 30.0


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


class Running:
    """The source, its frames, and a room that holds inspection up."""

    def __init__(
        self, folder: Path, grabber: Callable[[], Grabber] | None = None, *, once: bool = False, **keys: Any
    ) -> None:
        self.config = CameraConfig(**{"name": "torch", "url": "file:none", **keys})
        self.health, self.frames, self.at = Health(), list[Frame](), list[float]()
        self.folder = folder / "results" / "frames" / "torch"
        store = store_of(self.config, ResultsConfig(directory=str(folder / "results")), SystemClock(), self.health)
        make = grabber or grabber_of(self.config)
        self.ledger = MemoryLedger()
        self.room = Room()
        self.source = CameraSource(self.config, make, store, self.room, self.ledger, self.health, SystemClock())
        self.release, self._changed, self._stop = True, threading.Condition(), threading.Event()
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
            self.frames.append(frame)
            self.at.append(time.monotonic())
            if self.release:
                self.source.release([frame.key])
            self._changed.notify_all()
        return True

    def until(self, what: Callable[[], Any], patience: float = PATIENCE_S) -> None:
        """Wait for something that shows with a frame, or soon after."""
        end = time.monotonic() + patience
        with self._changed:
            while not what():
                assert self._error is None, repr(self._error)
                assert time.monotonic() < end, f"waited {patience} s; {len(self.frames)} frames; {self.state}"
                self._changed.wait(0.02)

    def until_frames(self, number: int) -> list[Frame]:
        self.until(lambda: len(self.frames) >= number)
        return self.frames

    def until_state(self, state: str) -> None:
        self.until(lambda: self.state == state)

    @property
    def state(self) -> str:
        return str(self.source.state()["state"])

    def counter(self, name: str) -> int:
        return self.health.counters().get(name, 0)

    def levels(self) -> list[int]:
        """The mean gray level of each frame that has a picture."""
        return [round(float(np.asarray(frame.picture.image).mean())) for frame in self.frames if frame.picture]

    def saved(self, frame: Frame) -> Path:
        return self.folder / frame.name

    def join(self, patience: float = PATIENCE_S) -> None:
        self._thread.join(patience)
        assert not self._thread.is_alive()

    def failure(self) -> BaseException | None:
        self.join()
        return self._error

    def stop(self) -> float:
        """Stop it; how many seconds that took."""
        begin = time.monotonic()
        self._stop.set()
        self.room.let_go()
        self.join()
        return time.monotonic() - begin


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
