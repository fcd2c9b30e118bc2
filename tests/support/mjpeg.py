"""A real MJPEG camera over HTTP, in threads of the test's process; each frame is drawn by ``stamp``."""

from __future__ import annotations

import base64
import contextlib
import io
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

from tests.support.stamp import HEIGHT, WIDTH, stamped

FPS = 25


def stamped_jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.frombytes("L", (WIDTH, HEIGHT), stamped()).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def part(data: bytes, boundary: str = "frame") -> bytes:
    """As cameras write it."""
    head = f"--{boundary}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data + b"\r\n"


class MjpegCamera:
    """``pause`` stalls it with all its connections open: nobody is served until ``go_on``."""

    def __init__(self, fps: float = FPS, account: str | None = None) -> None:
        self.fps, self.account = fps, account
        self.status, self.headers = 200, {"Content-Type": "multipart/x-mixed-replace; boundary=frame"}
        self.send: Callable[[Any, threading.Event], None] = self.stream
        self.authorizations: list[str | None] = []
        self.connections = 0
        self._going, self._stop = threading.Event(), threading.Event()
        self._going.set()
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                camera.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/video"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def answer(self, request: Any) -> None:
        self._going.wait()
        self.connections += 1
        self.authorizations.append(request.headers.get("Authorization"))
        status, headers = self.status, self.headers
        if self.account and request.headers.get("Authorization") != _basic(self.account):
            status, headers = 401, {"WWW-Authenticate": 'Basic realm="camera"'}
        try:
            request.send_response(status)
            for name, value in headers.items():
                request.send_header(name, value)
            request.end_headers()
            if status == 200:
                self.send(request.wfile, self._stop)
        except OSError:
            pass  # whoever looked at us has gone

    def stream(self, out: Any, stop: threading.Event) -> None:
        due = time.monotonic()
        while not stop.wait(max(0.0, due - time.monotonic())):
            due = max(due + 1 / self.fps, time.monotonic())
            self._going.wait()
            out.write(part(stamped_jpeg()))

    def pause(self) -> None:
        self._going.clear()

    def go_on(self) -> None:
        self._going.set()

    def stop(self) -> None:
        self._stop.set()
        self._going.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _basic(account: str) -> str:
    return "Basic " + base64.b64encode(account.encode()).decode()


@contextlib.contextmanager
def mjpeg_camera(**keys: Any) -> Iterator[MjpegCamera]:
    camera = MjpegCamera(**keys)
    try:
        yield camera
    finally:
        camera.stop()
