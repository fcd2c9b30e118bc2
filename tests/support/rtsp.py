"""A real RTSP camera: ``rtsp_server`` in a process of its own."""

from __future__ import annotations

import contextlib
from pathlib import Path

from tests.support.camera_process import CameraProcess
from tests.support.ports import free_port


class RtspCamera(CameraProcess):
    """Streams at ``url``."""

    def __init__(self, *account: str) -> None:
        port = free_port()
        self.url = f"rtsp://127.0.0.1:{port}/stream"
        server = str(Path(__file__).with_name("rtsp_server.py"))
        super().__init__("/usr/bin/python3", server, str(port), *account, says="ready")


def rtsp_camera(*account: str) -> contextlib.AbstractContextManager[RtspCamera]:
    """For a ``with``; with a user and password if these are given."""
    return contextlib.closing(RtspCamera(*account))
