"""HTTP connections that all end at one moment, wherever they are: connecting, handshake, headers or body.

Invariants
- A socket's own timeout starts again with every byte, so a server that drips is never late for it. A timer that shuts
  the sockets down is: whoever reads from one finds its end.
- Only the look-up of a name is the resolver's own time (some ten seconds at most).
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
import urllib.request
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from typing import Any


class Deadline:
    """``with Deadline(seconds, silence) as deadline``: ``over`` once the time is up. ``silence``: seconds a read."""

    def __init__(self, seconds: float, silence: float) -> None:
        self._end, self._silence = time.monotonic() + seconds, silence
        self._lock = threading.Lock()
        self._wires: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._shut)
        self._timer.daemon = True
        self.over = False

    def __enter__(self) -> Deadline:
        self._timer.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._timer.cancel()
        with self._lock:
            for wire in self._wires:
                wire.close()
            self._wires.clear()

    def connect(self, host: str, port: int) -> socket.socket:
        """A connection to the first of the host's addresses that takes one. ``OSError`` when none does in time."""
        error: OSError = TimeoutError("timed out")
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            left = self._end - time.monotonic()
            if left <= 0:
                break
            wire = socket.socket(family, kind, protocol)
            try:
                wire.settimeout(min(self._silence, left))
                wire.connect(address)
                wire.settimeout(self._silence)
                self._watch(wire)
            except OSError as trouble:
                wire.close()
                error = trouble
                continue
            return wire
        raise error

    def _watch(self, wire: socket.socket) -> None:
        with self._lock:
            # A descriptor of its own: TLS takes the other one over, and whoever reads may close it at any moment.
            self._wires.append(wire.dup())
            if self.over:
                raise TimeoutError("timed out")

    def _shut(self) -> None:
        with self._lock:
            self.over = True
            for wire in self._wires:
                with contextlib.suppress(OSError):
                    wire.shutdown(socket.SHUT_RDWR)


class Http(urllib.request.HTTPHandler):
    """``http`` within a deadline."""

    def __init__(self, deadline: Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, req: urllib.request.Request) -> HTTPResponse:
        """As the parent."""
        deadline = self._deadline

        class Connection(HTTPConnection):
            def connect(self) -> None:
                self.sock = deadline.connect(self.host, self.port)

        return self.do_open(Connection, req)


class Https(urllib.request.HTTPSHandler):
    """``https`` within a deadline; the certificate is checked against the system's authorities."""

    def __init__(self, deadline: Deadline) -> None:
        self._deadline, self._trust = deadline, ssl.create_default_context()
        super().__init__(context=self._trust)

    def https_open(self, req: urllib.request.Request) -> HTTPResponse:
        """As the parent."""
        deadline, trust = self._deadline, self._trust

        class Connection(HTTPSConnection):
            def __init__(self, host: str, **options: Any) -> None:
                super().__init__(host, context=trust, **options)

            def connect(self) -> None:
                self.sock = trust.wrap_socket(deadline.connect(self.host, self.port), server_hostname=self.host)

        return self.do_open(Connection, req)
