"""A real RTSP camera: GStreamer's server in a process of its own, run by the system's Python.

As a script (``/usr/bin/python3 rtsp.py PORT [USER PASSWORD]``) it serves H.264 at ``/stream``, 25 frames a second, each
drawn by ``stamp``. Debian: gir1.2-gst-rtsp-server-1.0, gstreamer1.0-plugins-{base,good,ugly}, python3-gi.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FPS = 25


class RtspCamera:
    """The server's process; ``pause`` stalls it with all its connections open, as a hung camera does."""

    def __init__(self, *account: str, port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"rtsp://127.0.0.1:{self.port}/stream"
        command = ["/usr/bin/python3", str(Path(__file__)), str(self.port), *account]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n", "the RTSP server did not start"

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextlib.contextmanager
def rtsp_camera(*account: str) -> Iterator[RtspCamera]:
    camera = RtspCamera(*account)
    try:
        yield camera
    finally:
        camera.stop()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def serve(port: int, account: list[str]) -> None:
    """Runs in the system's Python, which has GStreamer's bindings."""
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtspServer

    sys.path.insert(0, str(Path(__file__).parent))
    import stamp

    Gst.init(None)
    caps = f"video/x-raw,format=GRAY8,width={stamp.WIDTH},height={stamp.HEIGHT},framerate={FPS}/1"

    def draw(source: Any) -> bool:
        return bool(source.emit("push-buffer", Gst.Buffer.new_wrapped(stamp.stamped())) == Gst.FlowReturn.OK)

    def configure(_factory: Any, media: Any) -> None:
        source = media.get_element().get_by_name_recurse_up("picture")
        GLib.timeout_add(1000 // FPS, draw, source)

    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(
        f"( appsrc name=picture is-live=true do-timestamp=true format=time caps={caps} max-bytes=500000 "
        f"! videoconvert ! x264enc tune=zerolatency speed-preset=1 key-int-max={FPS} ! rtph264pay name=pay0 pt=96 )"
    )
    factory.set_shared(True)
    factory.connect("media-configure", configure)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(port))
    if account:
        auth = GstRtspServer.RTSPAuth()
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "viewer")
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(*account), token)
        server.set_auth(auth)
        permissions = GstRtspServer.RTSPPermissions()
        permissions.add_permission_for_role("viewer", "media.factory.access", True)
        permissions.add_permission_for_role("viewer", "media.factory.construct", True)
        factory.set_permissions(permissions)
    server.get_mount_points().add_factory("/stream", factory)
    server.attach(None)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    GLib.MainLoop().run()


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2:])
