"""Simulated industrial cameras: Aravis's fake GigE Vision camera on the loopback, and the producer in genicam's wheel.

Debian: aravis-tools (the camera), libaravis-0.8-0 (what the agent uses).
"""

from __future__ import annotations

import contextlib
import importlib.util
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path


class GigeCamera:
    """Sends 512×512 gray at 25 frames a second to whoever controls it."""

    url = "aravis:127.0.0.1"
    fps = 25

    def __init__(self) -> None:
        command = ["arv-fake-gv-camera-0.8", "-i", "127.0.0.1"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def gige_camera() -> Iterator[GigeCamera]:
    camera = GigeCamera()
    try:
        yield camera
    finally:
        camera.stop()


def simulated_producer() -> Path:
    """A GenTL producer with three cameras, 400×400 RGBa8."""
    spec = importlib.util.find_spec("genicam")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "viky.cti"
