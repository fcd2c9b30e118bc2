"""Small clients beside the sink: one only listens (the demo's counter), one only tries (``weldwatch check``)."""

from __future__ import annotations

import os
from collections.abc import Callable

from agent.config import MqttConfig
from agent.delivery.mqtt.brokers import trouble_with
from agent.delivery.mqtt.connection import Connection
from agent.delivery.mqtt.settings import Settings, settings_of
from agent.errors import RetryError, UsageError


class Subscriber:
    """Hands every payload on ``topic`` to ``arrived``, from a thread of its own. For a broker on this machine."""

    def __init__(self, host: str, port: int, topic: str, arrived: Callable[[bytes], None]) -> None:
        settings = Settings(host=host, port=port, client_id=f"weldwatch-subscriber-{os.getpid()}", keepalive_s=15)
        self._topic = topic
        self._connection = Connection(settings, on_message=lambda message: arrived(message.payload))

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
    """What keeps the station from connecting as ``config`` says, to its one broker (see ``each``), or None."""
    try:
        return trouble_with(settings_of(config, topic))
    except UsageError as error:
        return str(error)
