"""The embedded broker: for the demo and for ``mqtt.embedded: true``, so that a station needs nothing installed to try.

Invariants: it listens on 127.0.0.1 only; it lives no longer than the agent (iotcore runs it in a child process that
ends when the agent does); iotcore is imported only here and only when a broker is started.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
from pathlib import Path
from typing import Any

from agent.errors import UsageError

#: MQTT 5 needs rumqttd's own configuration. A payload may be 1 MB; a result has about 1 kB.
_CONFIGURATION = """\
id = 0
[router]
id = 0
max_connections = 100
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
[v5.1]
name = "weldwatch"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 10000
max_payload_size = 1048576
max_inflight_count = 100
dynamic_filters = true
"""


class EmbeddedBroker:
    """``with EmbeddedBroker() as broker: … broker.port``: an MQTT 5 broker on loopback."""

    host = "127.0.0.1"

    def __init__(self, port: int | None = None) -> None:
        self.port = port or 0  #: 0 until started: then a free one
        self._broker: Any = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def start(self) -> int:
        """Start it and wait until it answers; its port. ``UsageError`` when iotcore is missing or the port is taken."""
        try:
            import iotcore
        except ImportError:
            raise UsageError("the embedded broker needs iotcore: pip install 'weldwatch[demo]'") from None
        asked, tries = self.port, 3
        while True:
            self.port = asked or _free_port()
            self._folder = tempfile.TemporaryDirectory(prefix="weldwatch-broker-")
            file = Path(self._folder.name) / "rumqttd.toml"
            file.write_text(_CONFIGURATION.format(port=self.port), encoding="utf-8")
            try:
                self._broker = iotcore.Broker(config_path=str(file)).start()
                return self.port
            except (OSError, RuntimeError) as error:
                self.stop()
                tries -= 1
                if asked or not tries:
                    hint = f"the embedded broker cannot listen on 127.0.0.1:{self.port}: {error}; name another port"
                    raise UsageError(hint) from None

    def stop(self) -> None:
        """End it and let go of the port. Safe to call twice."""
        if self._broker is not None:
            self._broker.stop()
            self._broker = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> EmbeddedBroker:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def _free_port() -> int:
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
