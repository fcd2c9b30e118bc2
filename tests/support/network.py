"""A wire between agent and broker that can be cut, and listeners that are no brokers."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator


class Wire:
    """Passes bytes from its own port to ``port``; ``cuts`` may end a connection at what the client sends."""

    def __init__(self, port: int, cuts: Callable[[bytes], bool] = lambda _: False) -> None:
        self._to, self._cuts = port, cuts
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.connections = 0
        self.changed = threading.Condition()
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                near.close()
                continue
            self._open += [near, far]
            with self.changed:
                self.connections += 1
                self.changed.notify_all()
            threading.Thread(target=self._pass, args=(near, far, self._cuts), daemon=True).start()
            threading.Thread(target=self._pass, args=(far, near, lambda _: False), daemon=True).start()

    @staticmethod
    def _pass(source: socket.socket, target: socket.socket, cuts: Callable[[bytes], bool]) -> None:
        with contextlib.suppress(OSError):
            while (data := source.recv(1 << 16)) and not cuts(data):
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def break_off(self) -> None:
        """End all connections; new ones are taken."""
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Wire:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(5)
        for end in self._open:
            end.close()


@contextlib.contextmanager
def silent_listener() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])
