"""A wire between agent and broker that can be cut or held, a network that can be cut, listeners that are no brokers."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator


class Wire:
    """Passes bytes from its own port to ``port``; ``cuts`` may end a connection at what the client sends.

    What the broker says arrives ``lag_s`` later, or not at all where the connection is cut meanwhile.
    ``to_broker`` and ``to_client`` are events: cleared, nothing passes in that direction, and nobody is told.
    """

    def __init__(self, port: int, cuts: Callable[[bytes], bool] = lambda _: False, lag_s: float = 0.0) -> None:
        self._to, self._cuts, self._lag_s = port, cuts, lag_s
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.connections = 0
        self.changed = threading.Condition()
        self.to_broker, self.to_client = threading.Event(), threading.Event()
        self.to_broker.set()
        self.to_client.set()
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
            late = (far, near, lambda _: bool(time.sleep(self._lag_s)), self.to_client)
            for way in ((near, far, self._cuts, self.to_broker), late):
                threading.Thread(target=self._pass, args=way, daemon=True).start()

    @staticmethod
    def _pass(
        source: socket.socket, target: socket.socket, cuts: Callable[[bytes], bool], open_: threading.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while (data := source.recv(1 << 16)) and not cuts(data):
                open_.wait()
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
        self.to_broker.set()
        self.to_client.set()
        for end in self._open:
            end.close()


@contextlib.contextmanager
def silent_listener() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


_ROOT = () if os.geteuid() == 0 else ("sudo", "-n")


class Island:
    """A network of its own with one host, over a link that can be cut: packets are dropped, nothing is reset.

    Needs root, or a sudo that does not ask, and ``ip`` (Debian: iproute2).
    """

    def __init__(self) -> None:
        self.name = f"ww{os.getpid()}"
        net = f"198.18.{os.getpid() % 256}"  # RFC 2544: for tests of networks, routed nowhere
        self._near, self.host = f"{net}.1", f"{net}.2"
        self.within = (*_ROOT, "ip", "netns", "exec", self.name)

    def __enter__(self) -> Island:
        near, far = f"{self.name}a", f"{self.name}b"
        _ip("netns", "add", self.name)
        _ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", self.name)
        _ip("address", "add", f"{self._near}/30", "dev", near)
        _ip("link", "set", near, "up")
        _ip("-n", self.name, "address", "add", f"{self.host}/30", "dev", far)
        self.join()
        return self

    def cut(self) -> None:
        """From now on every packet is lost, both ways."""
        _ip("-n", self.name, "link", "set", f"{self.name}b", "down")

    def join(self) -> None:
        """Whole again."""
        _ip("-n", self.name, "link", "set", f"{self.name}b", "up")

    def __exit__(self, *exc: object) -> None:
        _ip("netns", "delete", self.name)  # takes both ends of the link with it


def _ip(*words: str) -> None:
    done = subprocess.run([*_ROOT, "ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
