"""A camera that drops a frame at a steady rate, in a thread of the test's."""

from __future__ import annotations

import threading
import time

import numpy as np

from tests.support.bundles import flat_png, png
from tests.support.station import Station

#: What a real one sends: 1280×700, gray, noisy.
CAMERA_FRAME = png(np.random.default_rng(2).normal(90, 12, (700, 1280)).clip(0, 255).astype(np.uint8))


class Camera(threading.Thread):
    """``with Camera(station, 0.05) as camera``: a frame every 50 ms until ``stop``; ``names`` are those delivered."""

    def __init__(self, station: Station, pause_s: float, frame: bytes | None = None) -> None:
        super().__init__(name="camera")
        self.names: list[str] = []
        self.at: dict[str, float] = {}  #: when each was put there (monotonic)
        self._station, self._pause_s, self._frame, self._enough = station, pause_s, frame, threading.Event()

    def run(self) -> None:
        begin = time.monotonic()
        while not self._enough.wait(max(0.0, begin + len(self.names) * self._pause_s - time.monotonic())):
            number = len(self.names)
            name = f"shift{number % 3}/weld_{number:05d}.png"
            self.at[name] = time.monotonic()
            self._station.put(name, self._frame or flat_png(number % 256))
            self.names.append(name)

    def stop(self) -> None:
        self._enough.set()
        self.join()

    def __enter__(self) -> Camera:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
