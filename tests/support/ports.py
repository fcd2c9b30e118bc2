"""Ports of 127.0.0.1 for what is stopped and started again on the same one."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from itertools import count
from pathlib import Path

_LOWEST = 10_240
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """A port that nobody listens on at present, and that no other test of this run is given.

    It lies below those from which the kernel serves whoever connects: of those one may be taken, while nobody listens,
    by a connection of another test, or by the very client that tries to reach it (it then talks to itself).
    """
    return next(_free)


def _ports() -> Iterator[int]:
    span = int(_EPHEMERAL.read_text().split()[0]) - _LOWEST
    # Workers run side by side and have neighbouring process ids: far apart they do not meet.
    for number in count(os.getpid() * 1009):
        port = _LOWEST + number % span
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port


_free = _ports()
