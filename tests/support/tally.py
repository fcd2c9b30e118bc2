"""A subscriber that only counts: what a MES keeps of a stream of results, for streams too long to keep whole.

An ordinary MQTT 5 client with QoS 1 and a session on the broker; it comes back a second after the broker did.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties


class HeardImage(msgspec.Struct):
    """Which image it is of."""

    name: str


class Heard(msgspec.Struct):
    """What a subscriber needs of a result to tell whether it is new."""

    ledger_id: str
    sequence: int
    result_id: str
    image: HeardImage


class Tally:
    """``with Tally(port, topic) as tally``."""

    def __init__(self, port: int, topic: str) -> None:
        self.heard: list[Heard] = []  #: every message, duplicates too
        self.at: list[float] = []  #: when (monotonic)
        self.changed = threading.Condition()
        self.connections = 0  #: subscribed so many times
        self._decoder = msgspec.json.Decoder(Heard)
        self._port, self._topic = port, topic
        self._client = Client(CallbackAPIVersion.VERSION2, client_id=f"tally-{uuid.uuid4()}", protocol=MQTTv5)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = self._connected
        self._client.on_subscribe = self._subscribed
        self._client.on_message = self._message

    def _connected(self, client: Client, *_: Any) -> None:
        client.subscribe(self._topic, 1)

    def _subscribed(self, *_: Any) -> None:
        with self.changed:
            self.connections += 1
            self.changed.notify_all()

    def _message(self, _client: Client, _userdata: Any, message: MQTTMessage) -> None:
        one = self._decoder.decode(message.payload)
        with self.changed:
            self.heard.append(one)
            self.at.append(time.monotonic())
            self.changed.notify_all()

    def until(self, condition: Callable[[], bool], what: str, within_s: float = 60.0) -> None:
        """Wait until a message or a connection makes ``condition`` true."""
        with self.changed:
            assert self.changed.wait_for(condition, within_s), f"not within {within_s:g} s: {what}"

    def first_heard(self) -> list[Heard]:
        """Without what came again under the same id."""
        return list({(one.ledger_id, one.sequence, one.result_id): one for one in self.heard}.values())

    def __enter__(self) -> Tally:
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600
        self._client.connect("127.0.0.1", self._port, clean_start=False, properties=properties)
        self._client.loop_start()
        self.until(lambda: self.connections > 0, "a subscription")
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        # A cycle with its callbacks would keep its sockets open until the garbage collector comes.
        self._client.on_connect = self._client.on_subscribe = self._client.on_message = None
