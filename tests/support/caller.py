"""Someone who commands a station: an independent MQTT 5 client that sends commands and hears the answers."""

from __future__ import annotations

import json
from typing import Any

from paho.mqtt.client import MQTTMessage
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.support.mosquitto import Listener


class Caller(Listener):
    """``call`` a command; ``answers`` are what came on any topic below the commands' own."""

    def __init__(self, port: int, topic: str, **login: Any) -> None:
        super().__init__(port, f"{topic}/command/+/#", **login)
        self._base = f"{topic}/command/"

    def call(
        self,
        name: str,
        body: Any = b"",
        *,
        retain: bool = False,
        response: str | None = None,
        correlation: bytes | None = None,
    ) -> None:
        """Send it; the broker has it when this returns."""
        properties = Properties(PacketTypes.PUBLISH)
        if response is not None:
            properties.ResponseTopic = response
        if correlation is not None:
            properties.CorrelationData = correlation
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self._client.publish(f"{self._base}{name}", raw, 1, retain, properties).wait_for_publish(10)

    def reach(self, name: str = "hello") -> None:
        """Until the station listens: who gets no answer asks again. No station knows ``hello``."""

        def heard() -> int:
            return sum(f"/{name}/" in one.topic for one in self.messages)

        before = heard()
        for _ in range(200):
            self.call(name)
            with self.changed:
                if self.changed.wait_for(lambda: heard() > before, 0.1):
                    return
        raise AssertionError("nobody answers")

    def answers(self, count: int, timeout: float = 20.0) -> list[tuple[MQTTMessage, dict[str, Any]]]:
        """Wait for so many; all of them, in their order."""
        with self.changed:
            if not self.changed.wait_for(lambda: len(self._answers()) >= count, timeout):
                raise AssertionError(f"only {self._answers()}")
            return self._answers()

    def ask(self, name: str, body: Any = b"", **how: Any) -> dict[str, Any]:
        """The answer to one command, when no other is under way."""
        before = len(self._answers())
        self.call(name, body, **how)
        return self.answers(before + 1)[before][1]

    def _answers(self) -> list[tuple[MQTTMessage, dict[str, Any]]]:
        """What is no command itself, and no ``hello``."""
        levels = [(message, message.topic.removeprefix(self._base).split("/")) for message in self.messages]
        told = [message for message, parts in levels if len(parts) > 1 and parts[0] != "hello"]
        return [(message, json.loads(bytes(message.payload))) for message in told]
