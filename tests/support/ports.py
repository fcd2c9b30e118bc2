"""Ports of 127.0.0.1 for what is stopped and started again on the same one."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from itertools import count
from pathlib import Path

_LOWEST, _SHARES = 10_240, 8
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """A port that nobody listens on at present, and that no other test of this run is given soon.

    It lies below those from which the kernel serves whoever connects: of those one may be taken, while nobody listens,
    by a connection of another test, or by the very client that tries to reach it (it then talks to itself). Where there
    are none below, the kernel chooses.
    """
    return next(_free)


def _ports() -> Iterator[int]:
    many = (int(_EPHEMERAL.read_text().split()[0]) - _LOWEST) // _SHARES
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _SHARES
    for number in count(os.getpid()):
        port = _LOWEST + worker * many + number % many if many > 0 else 0
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found = int(probe.getsockname()[1])
        yield found


_free = _ports()
