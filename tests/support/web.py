"""The far end of a webhook: a real HTTP server that answers as a test tells it, and one that is no HTTP server."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.ports import free_port

Answer = tuple[int, dict[str, str], bytes]


class WebServer:
    """Remembers every request with its headers; ``answer`` says what comes back. It can leave and come back."""

    def __init__(self, certificate: tuple[Path, Path] | None = None) -> None:
        self.port, self.certificate = free_port(), certificate
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.port}/results"
        self.posts: list[tuple[dict[str, str], Any]] = []  #: headers and JSON of what was answered with 2xx
        self.asked: list[tuple[str, dict[str, str]]] = []  #: method and headers of every request
        self.clients: set[tuple[str, int]] = set()
        self.answer: Callable[[str, dict[str, str], bytes], Answer] = lambda *_: (204, {}, b"")
        self.changed = threading.Condition()
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> WebServer:
        end = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            timeout = 30

            def do_POST(self) -> None:
                end._serve(self)

            def do_HEAD(self) -> None:
                end._serve(self)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                pass  # clients that hang up are part of the tests

        self._server = Server(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._open: list[socket.socket] = []
        if self.certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self.certificate)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def _serve(self, request: Any) -> None:
        self._open.append(request.connection)
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        headers = dict(request.headers)
        status, more, said = self.answer(request.command, headers, body)
        with self.changed:
            self.clients.add(request.client_address)
            self.asked.append((request.command, headers))
            if 200 <= status < 300 and body:
                self.posts.append((headers, json.loads(body)))
            self.changed.notify_all()
        request.send_response(status)
        for name, value in {"Content-Length": str(len(said)), **more}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(said)

    def stop(self) -> None:
        """Leave: its port refuses, its connections are closed."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            self._server = None

    def until(self, condition: Callable[[], bool], timeout: float = 20.0) -> None:
        """Wait for something that a request brings about."""
        with self.changed:
            assert self.changed.wait_for(condition, timeout), f"{len(self.posts)} posts, {len(self.asked)} requests"

    def __enter__(self) -> WebServer:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()


@contextlib.contextmanager
def raw_server(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """The address of a server that treats each connection as ``talk`` does, in a thread of its own."""
    server = socket.create_server(("127.0.0.1", 0))
    near: list[socket.socket] = []

    def serve(wire: socket.socket) -> None:
        with contextlib.suppress(OSError), wire:
            talk(wire)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                wire, _ = server.accept()
                near.append(wire)
                threading.Thread(target=serve, args=(wire,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"
    finally:
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(5)
        for wire in near:
            with contextlib.suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)
