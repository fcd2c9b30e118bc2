"""The port for Prometheus: an HTTP server that nobody can take a station's file descriptors through.

Invariants
- At most ``PLACES`` connections at once, each a thread, and none for longer than ``CLIENT_S``, whatever is said on it.
- One more takes the place of the oldest: who only sits there keeps no scrape out.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

PLACES = 8
CLIENT_S = 5.0
_LOOK_S = 0.5  #: how often it is looked who is overdue, and whether to stop
_YIELD_S = 0.2  #: how long one that is hung up on may take to go


class Handler(WSGIRequestHandler):
    """One connection; its time is the server's to watch."""

    def log_message(self, format: str, *args: Any) -> None:
        """A scrape is no news."""


class Server(ThreadingWSGIServer):
    """``handle_request`` again and again, ``end_overdue`` after each."""

    timeout = _LOOK_S
    request_queue_size = 128  #: a scrape behind a crowd is let in with it, not a second later

    def __init__(self, address: tuple[str, int], handler: type[Handler]) -> None:
        self._free = threading.BoundedSemaphore(PLACES)
        self._lock = threading.Lock()
        self._since: dict[Any, float] = {}  #: socket of each connection, the oldest first → when it came
        super().__init__(address, handler)

    def get_request(self) -> Any:
        """The next connection. Without a descriptor for it: a pause, or the loop would spin until there is one."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(_YIELD_S)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give it a place and a thread, or close it."""
        if not self._free.acquire(blocking=False):
            self._hang_up(1)
            if not self._free.acquire(timeout=_YIELD_S):
                self.shutdown_request(request)
                return
        with self._lock:
            self._since[request] = time.monotonic()
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread to be had
            self._leave(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve it, in a thread of its own; then the place is free again."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._leave(request)

    def end_overdue(self) -> None:
        """Hang up on who has had its time."""
        now = time.monotonic()
        with self._lock:
            overdue = sum(now - since >= CLIENT_S for since in self._since.values())
        self._hang_up(overdue)

    def server_close(self) -> None:
        """Listen no more, and hang up on all."""
        super().server_close()
        self._hang_up(PLACES)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that says nothing, or goes away, is no news either."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def _hang_up(self, count: int) -> None:
        """On the oldest ``count``: their threads wake up to a connection that has ended."""
        with self._lock:
            oldest = list(self._since)[:count]
            for request in oldest:
                with contextlib.suppress(OSError):  # gone by itself
                    request.shutdown(socket.SHUT_RDWR)

    def _leave(self, request: Any) -> None:
        with self._lock:
            del self._since[request]
        self._free.release()


def listen(address: str, port: int, registry: CollectorRegistry) -> Server:
    """A server that listens. ``OSError``: the port is taken, or the address is not ours."""

    class Family(Server):
        address_family = socket.AF_INET6 if ":" in address else socket.AF_INET

    return make_server(address, port, make_wsgi_app(registry), Family, Handler)
