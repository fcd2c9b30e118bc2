"""What the service manager is told: systemd's notification protocol (sd_notify(3)), or nothing where nobody listens.

Invariants: a message is one datagram and never waits for long; the variables that lead here are taken out of the
environment, so that no child process can speak in our name.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

from agent.logs import log

_SEND_S = 1.0
_log = log("app")


class Notify:
    """``address`` is a path, or a name that begins with ``@``; None: nobody listens."""

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        self._address = address
        self.watchdog_s = watchdog_s  #: the manager wants to hear of progress at least this often; None: it does not

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> Notify:
        """What ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` ask for."""
        address = environment.pop("NOTIFY_SOCKET", None)
        microseconds = environment.pop("WATCHDOG_USEC", "")
        meant = environment.pop("WATCHDOG_PID", "") in ("", str(os.getpid()))
        wanted = address and meant and microseconds.isdecimal() and int(microseconds)
        return cls(address, int(microseconds) / 1e6 if wanted else None)

    def __bool__(self) -> bool:
        return self._address is not None

    def tell(self, *assignments: str) -> None:
        """Send ``READY=1``, ``STATUS=…``, … as one message."""
        if self._address is None:
            return
        name = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        message = "\n".join(one.replace("\n", " ") for one in assignments)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
                to.settimeout(_SEND_S)
                to.sendto(message.encode("utf-8", "replace"), name)
        except OSError as error:
            _log.warning("manager_deaf: the service manager does not hear us at %s: %s", self._address, error)
