"""Simulated industrial cameras: Aravis's fake GigE Vision camera on the loopback, and the producer in genicam's wheel.

Debian: aravis-tools (the camera), libaravis-0.8-0 (what the agent uses).
"""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path

from tests.support.camera_process import CameraProcess


class GigeCamera(CameraProcess):
    """Sends 512×512 gray at 25 frames a second to whoever controls it."""

    url = "aravis:127.0.0.1"
    fps = 25

    def __init__(self) -> None:
        super().__init__("arv-fake-gv-camera-0.8", "-i", "127.0.0.1")


def gige_camera() -> contextlib.AbstractContextManager[GigeCamera]:
    """For a ``with``."""
    return contextlib.closing(GigeCamera())


def simulated_producer() -> Path:
    """A GenTL producer with three cameras, 400×400 RGBa8."""
    spec = importlib.util.find_spec("genicam")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "viky.cti"
