"""The demo's camera: drops synthetic weld frames into a capture folder as an FTP client of a real one would.

Invariant: a frame appears under its name whole (written under a dot name, then renamed), and every frame is a function
of the seed and its number.
"""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

from agent.demo.scene import KINDS, SIZE, recording, render

FRAMES_A_WELD = 10
#: So many of ten welds are good: enough of both to watch the verdict change.
_GOOD_OF_TEN = 6


class SimulatedCamera(threading.Thread):
    """Writes ``frames`` frames at ``rate`` a second into ``folder``, then ends."""

    def __init__(self, folder: Path, frames: int, rate: float, seed: int = 0, size: tuple[int, int] = SIZE) -> None:
        super().__init__(name="simulated camera", daemon=True)
        self._folder, self._frames, self._rate, self._seed, self._size = folder, frames, rate, seed, size
        self.truth: dict[str, str] = {}  #: file name to what was drawn (a label of the public set)
        self.error: OSError | None = None  #: what ended it early, e.g. a full disk
        self.quit = threading.Event()

    def run(self) -> None:
        """Draw, write, wait for the next frame's time."""
        started = time.monotonic()
        try:
            for number in range(self._frames):
                name, data, kind = self.frame(number)
                if self.quit.wait(max(0.0, started + number / self._rate - time.monotonic())):
                    return
                self.truth[name] = KINDS[kind]
                hidden = self._folder / f".{name}.part"
                hidden.write_bytes(data)
                hidden.rename(self._folder / name)
        except OSError as error:
            self.error = error

    def frame(self, number: int) -> tuple[str, bytes, int]:
        """Name (part, job, frame number), PNG bytes and kind of one frame."""
        weld, index = divmod(number, FRAMES_A_WELD)
        chance = np.random.default_rng((self._seed, weld))
        kind = 0 if weld % 10 == 0 or chance.random() * 10 < _GOOD_OF_TEN else int(chance.integers(1, len(KINDS)))
        gray = render(recording(self._seed * 1000 + weld), kind, index, self._size)
        buffer = io.BytesIO()
        Image.fromarray(gray).save(buffer, "PNG", compress_level=1)
        return f"P{weld + 1:04d}_J{self._seed + 1}_{index:04d}.png", buffer.getvalue(), kind
