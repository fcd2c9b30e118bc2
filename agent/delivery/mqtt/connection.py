"""One MQTT connection, from CONNECT to its end: the one door to paho.

Invariants
- A ``Connection`` is used once. paho's queues and its own reconnecting, which replay out of order, so never come in.
- Nothing of ours is locked while paho is called: paho calls back under its own locks.
- Every QoS 1 publish ends with a reason code from the broker, or with None when the connection ended first.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from agent.delivery.mqtt import causes
from agent.delivery.mqtt.settings import Settings
from agent.errors import RetryError

CONNECT_TIMEOUT_S = 5.0
_GOODBYE_S = 1.0

OnMessage = Callable[[str, bytes, bool], None]


@dataclass(frozen=True)
class Will:
    """What the broker says for us when we are gone without a goodbye. Retained, QoS 1."""

    topic: str
    payload: bytes


@dataclass(frozen=True)
class End:
    """How a connection ended."""

    text: str
    code: int = 0  #: the broker's reason code, 0 where it gave none
    by_broker: bool = False  #: the far end closed it, as opposed to a timeout or a goodbye of ours


class Sent:
    """A published message on its way to its reason code."""

    __slots__ = ("_done", "code")

    def __init__(self) -> None:
        self._done = threading.Event()
        self.code: int | None = None

    def finish(self, code: int | None) -> None:
        """The broker answered, or never will (None)."""
        self.code = code
        self._done.set()

    def wait(self, timeout: float) -> bool:
        """Whether it is finished."""
        return self._done.wait(timeout)


class Connection:
    """``open`` it once; ``ended`` is set when it is over and ``end`` then says why."""

    def __init__(
        self, settings: Settings, will: Will | None = None, *, session_s: int = 0, on_message: OnMessage | None = None
    ) -> None:
        self._settings, self._session_s, self._on_message = settings, session_s, on_message
        self.ended = threading.Event()
        self.end: End | None = None
        self.birth: Sent | None = None  #: the first message; once it is acknowledged, the broker does take messages
        self.receive_max, self.max_packet = 65_535, 268_435_455
        self._answered = threading.Event()
        self._refusal: str | None = None
        self._lock = threading.Lock()
        self._pending: dict[int, Sent] = {}
        self._early: dict[int, int] = {}  # answers that overtook the return of publish()
        self._on_end: Callable[[], None] = lambda: None
        self._client = Client(
            CallbackAPIVersion.VERSION2, client_id=settings.client_id, protocol=MQTTv5, reconnect_on_failure=False
        )
        self._set_up(will)

    def _set_up(self, will: Will | None) -> None:
        client, settings = self._client, self._settings
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(0)  # the window is the sink's
        if settings.tls is not None:
            client.tls_set_context(settings.tls)
        if settings.username is not None or settings.password_env or settings.password_file:
            client.username_pw_set(settings.username, settings.password())
        if will is not None:
            client.will_set(will.topic, will.payload, 1, True, _json_properties(PacketTypes.WILLMESSAGE, None))
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_publish = self._acknowledged
        client.on_message = self._received
        client.on_socket_open = self._tune

    # --- for the owner ---

    @property
    def proven(self) -> bool:
        """The broker has acknowledged the first message of this connection."""
        return self.birth is not None and self.birth.code is not None

    def open(self, on_end: Callable[[], None] = lambda: None) -> None:
        """Connect and wait for the broker's consent. ``RetryError`` with the cause when there is none.

        ``on_end`` is called (briefly, from another thread) when an open connection ends.
        """
        where, settings = f"broker {self._settings.address}", self._settings
        properties = _properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = self._session_s
        try:
            self._client.connect(
                settings.host,
                settings.port,
                settings.keepalive_s,
                clean_start=not self._session_s,
                properties=properties,
            )
        except (OSError, ValueError) as error:
            self._finish(End("never connected"))
            self.join()
            raise RetryError(f"{where} {causes.of_exception(error, CONNECT_TIMEOUT_S)}") from None
        self._client.loop_start()
        answered = self._answered.wait(CONNECT_TIMEOUT_S)
        if self._refusal is None and answered and not self.ended.is_set():
            self._on_end = on_end
            if not self.ended.is_set():
                return
        refusal = self._refusal or (
            "closed the connection instead of answering; does it speak MQTT 5, want TLS or a client certificate?"
            if answered
            else f"took the connection but did not answer within {CONNECT_TIMEOUT_S:g} s; is it an MQTT broker?"
        )
        self.drop(refusal)
        raise RetryError(f"{where} {refusal}")

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, expiry_s: int | None = None) -> Sent:
        """Send with QoS 1. The answer comes to ``Sent``."""
        sent = Sent()
        info = self._client.publish(topic, payload, 1, retain, _json_properties(PacketTypes.PUBLISH, expiry_s))
        lost = info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS or self.ended.is_set()
        with self._lock:
            code = self._early.pop(info.mid, None)
            if code is None and not lost:
                self._pending[info.mid] = sent
        if code is not None or lost:
            sent.finish(code)
        elif self.ended.is_set():
            self._fail_pending()
        return sent

    def subscribe(self, topic: str) -> None:
        """QoS 1; retained messages come at once."""
        self._client.subscribe(topic, options=SubscribeOptions(qos=1))

    def goodbye(self) -> None:
        """Disconnect cleanly: no last will."""
        self._client.disconnect()
        self.ended.wait(_GOODBYE_S)
        self._finish(End("said goodbye"))
        self.join()

    def drop(self, why: str) -> None:
        """End it without a goodbye; the broker publishes the last will."""
        self._finish(End(why))
        sock: Any = self._client.socket()
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it was closed meanwhile, which is what we want
        self.join()

    def join(self) -> None:
        """Wait until the library's thread of an ended connection is gone, and let go of its sockets.

        The callbacks make a cycle with the client, which would keep its sockets open until the garbage collector comes.
        """
        self._client.loop_stop()
        client = self._client
        client.on_connect = client.on_disconnect = client.on_publish = client.on_message = client.on_socket_open = None

    # --- paho's thread ---

    def _tune(self, _client: Client, _userdata: Any, sock: Any) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A cut without a reset: the ping after one keepalive stays unacknowledged, and the kernel gives up 0.4 later.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self._settings.keepalive_s * 400))

    def _connected(self, _client: Client, _userdata: Any, _flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            settings = self._settings
            self._refusal = causes.of_connack(reason.value, str(reason), settings.username, settings.client_id)
        else:
            self.receive_max = getattr(properties, "ReceiveMaximum", self.receive_max)
            self.max_packet = getattr(properties, "MaximumPacketSize", self.max_packet)
        self._answered.set()

    def _disconnected(self, _client: Client, _userdata: Any, flags: Any, reason: Any, _properties: Any) -> None:
        if flags.is_disconnect_packet_from_server:
            self._finish(End(f"disconnected us: {reason} ({reason.value})", reason.value, by_broker=True))
        else:
            timeout = "keep" in str(reason).lower()
            text = "did not answer a ping" if timeout else "closed the connection"
            self._finish(End(text, by_broker=not timeout))
        self._answered.set()

    def _acknowledged(self, _client: Client, _userdata: Any, mid: int, reason: Any, _properties: Any) -> None:
        with self._lock:
            sent = self._pending.pop(mid, None)
            if sent is None:
                self._early[mid] = reason.value
        if sent is not None:
            sent.finish(reason.value)

    def _received(self, _client: Client, _userdata: Any, message: MQTTMessage) -> None:
        if self._on_message is not None:
            self._on_message(message.topic, bytes(message.payload), message.retain)

    def _finish(self, end: End) -> None:
        with self._lock:
            if self.end is None:
                self.end = end
        self.ended.set()
        self._fail_pending()
        self._on_end()

    def _fail_pending(self) -> None:
        with self._lock:
            lost, self._pending = list(self._pending.values()), {}
        for sent in lost:
            sent.finish(None)


@lru_cache(maxsize=8)
def _json_properties(kind: int, expiry_s: int | None) -> Properties:
    properties = _properties(kind)
    properties.ContentType = "application/json"
    properties.PayloadFormatIndicator = 1  # UTF-8
    if expiry_s is not None:
        properties.MessageExpiryInterval = expiry_s
    return properties


def _properties(kind: int) -> Properties:
    return Properties(kind)  # type: ignore[no-untyped-call]  # paho leaves this one without types
