"""An RTSP server of GStreamer's, run by the system's Python: ``/usr/bin/python3 rtsp_server.py PORT [USER PASSWORD]``.

It serves H.264 at ``/stream``, 25 frames a second, each drawn by ``stamp``, and says ``ready``. Debian:
gir1.2-gst-rtsp-server-1.0, gstreamer1.0-plugins-{base,good,ugly}, python3-gi.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

FPS = 25


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
