"""Small clients beside the sink: one only listens (the demo's counter), one only tries (``weldwatch check``)."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

from agent.config import MqttConfig
from agent.delivery.mqtt.connection import Connection
from agent.delivery.mqtt.settings import Settings, settings_of
from agent.errors import RetryError, UsageError


class Subscriber:
    """Hands every payload on ``topic`` to ``arrived``, from a thread of its own. For a broker on this machine."""

    def __init__(self, host: str, port: int, topic: str, arrived: Callable[[bytes], None]) -> None:
        settings = Settings(host=host, port=port, client_id=f"weldwatch-subscriber-{os.getpid()}", keepalive_s=15)
        self._topic = topic
        self._connection = Connection(settings, on_message=lambda _topic, payload, _retained: arrived(payload))

    def start(self) -> None:
        """Connect and subscribe. ``UsageError`` when the broker is not there."""
        try:
            self._connection.open()
        except RetryError as error:
            raise UsageError(str(error)) from None
        self._connection.subscribe(self._topic)

    def stop(self) -> None:
        """Disconnect. Safe to call twice, and without a ``start``."""
        if not self._connection.ended.is_set():
            self._connection.goodbye()


def probe(config: MqttConfig, topic: str) -> str | None:
    """Connect as the station would, under another client id so as not to take over; what is wrong, or None."""
    try:
        settings = settings_of(config, topic)
        connection = Connection(replace(settings, client_id=f"{settings.client_id[:50]}-check"))
        connection.open()
    except (RetryError, UsageError) as error:
        return str(error)
    connection.goodbye()
    return None
