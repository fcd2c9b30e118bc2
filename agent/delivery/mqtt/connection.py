"""One MQTT connection, from CONNECT to its end: the one door to paho.

Invariants
- Every connection begins a clean session: what a broker queued for us while we were away (a command, above all) is not
  wanted, and results have their own window.
- A ``Connection`` is used once. paho's queues and its own reconnecting, which replay out of order, so never come in.
- Nothing of ours is locked while paho is called: paho calls back under its own locks.
- Every packet that is answered ends with the broker's reason code, or with None when the connection ended first. On
  MQTT 3.1.1 a PUBLISH has no reason code: 0, whatever the broker did with it.
"""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from paho.mqtt.client import Client, MQTTMessage, MQTTv5, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from agent.delivery.mqtt import causes
from agent.delivery.mqtt.messages import JSON, End, Message, Note, Sent, Will
from agent.delivery.mqtt.settings import Settings
from agent.errors import RetryError
from agent.logs import log

CONNECT_TIMEOUT_S = 5.0
_GOODBYE_S = 1.0
_HEAD = 64  #: bytes of a PUBLISH beside topic, payload and correlation data, at most
_LOG = log("mqtt")
#: What the kernel says of a far end that has closed nothing and answers no more.
_SILENT = {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN}

OnMessage = Callable[[Message], None]


class Connection:
    """``open`` it once; ``ended`` is set when it is over and ``end`` then says why."""

    def __init__(self, settings: Settings, will: Will | None = None, *, on_message: OnMessage | None = None) -> None:
        self.settings, self._on_message = settings, on_message
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
        self._five = settings.protocol == 5
        self._ear = _Ear()
        self._client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=settings.client_id,
            protocol=MQTTv5 if self._five else MQTTv311,
            clean_session=None if self._five else True,
            reconnect_on_failure=False,
        )
        self._set_up(will)

    def _set_up(self, will: Will | None) -> None:
        client, settings = self._client, self.settings
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(0)  # the window is the sink's
        client.enable_logger(self._ear)  # type: ignore[arg-type]  # it is called as a logger is
        if settings.tls is not None:
            client.tls_set_context(settings.tls.context())
        if settings.username is not None or settings.password_env or settings.password_file:
            client.username_pw_set(settings.username, settings.password())
        if will is not None:
            client.will_set(
                will.topic, will.payload, 1, will.retain, self._properties(PacketTypes.WILLMESSAGE, will.note)
            )
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_publish = self._acknowledged
        client.on_subscribe = self._subscribed
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
        where, settings = f"broker {self.settings.address}", self.settings
        try:  # the first connection of a client is a clean start: paho's default
            self._client.connect(settings.host, settings.port, settings.keepalive_s)
        except (OSError, ValueError) as error:
            self._finish(End("never connected"))
            self.join()
            raise RetryError(f"{where} {causes.of_exception(error, CONNECT_TIMEOUT_S, settings.section)}") from None
        self._client.loop_start()
        answered = self._answered.wait(CONNECT_TIMEOUT_S)
        if self._refusal is None and answered and not self.ended.is_set():
            self._on_end = on_end
            if not self.ended.is_set():
                return
        refusal = self._refusal or (
            f"closed the connection instead of answering; does it speak MQTT {settings.protocol}, "
            "want TLS or a client certificate?"
            if answered
            else f"took the connection but did not answer within {CONNECT_TIMEOUT_S:g} s; is it an MQTT broker?"
        )
        self.drop(refusal)
        raise RetryError(f"{where} {refusal}")

    def takes(self, topic: str, payload: bytes, note: Note = JSON) -> bool:
        """Whether it is within what the broker said it takes; MQTT 3.1.1 does not say."""
        return len(payload) + len(topic.encode()) + len(note.correlation or b"") + _HEAD <= self.max_packet

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, note: Note = JSON) -> Sent:
        """Send; never blocks. The answer comes to ``Sent``."""
        info = self._client.publish(topic, payload, qos, retain, self._properties(PacketTypes.PUBLISH, note))
        return self._sent(info.rc, info.mid)

    def subscribe(self, topic: str, qos: int = 1, *, as_published: bool = False) -> Sent:
        """Subscribe; retained messages come at once. The broker's consent (below 128) comes to ``Sent``.

        ``as_published``: a message that its sender wants to be retained is marked as such also when it comes live
        (MQTT 5 only).
        """
        if self._five:
            options = SubscribeOptions(qos=qos, retainAsPublished=as_published)
            code, mid = self._client.subscribe(topic, options=options)
        else:
            code, mid = self._client.subscribe(topic, qos)
        return self._sent(code, mid)

    def unsubscribe(self, topic: str) -> None:
        """No more of it; what is on its way still comes."""
        self._client.unsubscribe(topic)

    def _sent(self, code: MQTTErrorCode, mid: int | None) -> Sent:
        """Wait for the answer to packet ``mid``, unless it came already or never will."""
        sent = Sent()
        lost = mid is None or code != MQTTErrorCode.MQTT_ERR_SUCCESS or self.ended.is_set()
        with self._lock:
            early = None if mid is None else self._early.pop(mid, None)
            if early is None and not lost and mid is not None:
                self._pending[mid] = sent
        if early is not None or lost:
            sent.finish(early)
        elif self.ended.is_set():
            self._fail_pending()
        return sent

    def goodbye(self, *, with_will: bool = False) -> None:
        """Disconnect cleanly: no last will, unless asked for (MQTT 5 only)."""
        self._client.disconnect(ReasonCode(PacketTypes.DISCONNECT, identifier=4) if with_will and self._five else None)
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
        client.on_connect = client.on_disconnect = client.on_publish = client.on_subscribe = None
        client.on_message = client.on_socket_open = None

    # --- paho's thread ---

    def _tune(self, _client: Client, _userdata: Any, sock: Any) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A cut without a reset: the ping after one keepalive stays unacknowledged, and the kernel gives up 0.4 later.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self.settings.keepalive_s * 400))

    def _connected(self, _client: Client, _userdata: Any, _flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._refusal = causes.of_connack(reason.value, str(reason), self.settings)
        else:
            self.receive_max = getattr(properties, "ReceiveMaximum", self.receive_max)
            self.max_packet = getattr(properties, "MaximumPacketSize", self.max_packet)
        self._answered.set()

    def _disconnected(self, _client: Client, _userdata: Any, flags: Any, reason: Any, _properties: Any) -> None:
        if flags.is_disconnect_packet_from_server:
            self._finish(End(f"disconnected us: {reason} ({reason.value})", reason.value, by_broker=True))
        else:
            timeout, silent = "keep" in str(reason).lower(), self._ear.errno in _SILENT
            text = "did not answer a ping" if timeout else "did not answer" if silent else "closed the connection"
            self._finish(End(text, by_broker=not (timeout or silent)))
        self._answered.set()

    def _acknowledged(self, _client: Client, _userdata: Any, mid: int, reason: Any, _properties: Any) -> None:
        sock: Any = self._client.socket()
        if sock is not None:
            # Most brokers leave Nagle on: they hold the next answers back until this one is acknowledged, which the
            # kernel puts off by up to 40 ms unless told otherwise, each time anew.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        self._answered_with(mid, reason.value)

    def _subscribed(self, _client: Client, _userdata: Any, mid: int, reasons: Any, _properties: Any) -> None:
        self._answered_with(mid, reasons[0].value)

    def _answered_with(self, mid: int, code: int) -> None:
        with self._lock:
            sent = self._pending.pop(mid, None)
            if sent is None:
                self._early[mid] = code
        if sent is not None:
            sent.finish(code)

    def _received(self, _client: Client, _userdata: Any, message: MQTTMessage) -> None:
        if self._on_message is None:
            return
        said = message.properties
        try:
            self._on_message(
                Message(
                    message.topic,
                    bytes(message.payload),
                    message.retain,
                    getattr(said, "ResponseTopic", None),
                    getattr(said, "CorrelationData", None),
                )
            )
        except Exception:  # noqa: BLE001  # it would end paho's thread and leave the connection neither up nor ended
            _LOG.exception(
                "message_fault: a message on %s is passed over because of a fault of ours", self.settings.address
            )

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

    def _properties(self, kind: int, note: Note) -> Properties | None:
        if not self._five:
            return None
        return _properties(kind, note) if note.correlation is None else _properties.__wrapped__(kind, note)


class _Ear:
    """Stands where paho wants a logger: the error that ends a connection is told nowhere else."""

    errno: int | None = None

    def log(self, _level: int, _text: str, *values: object) -> None:
        """One of paho's lines, most of which speak of packets."""
        for value in values:
            if isinstance(value, OSError):
                self.errno = value.errno


@lru_cache(maxsize=16)
def _properties(kind: int, note: Note) -> Properties:
    properties = Properties(kind)  # type: ignore[no-untyped-call]  # paho leaves this one without types
    if note.content_type is not None:
        properties.ContentType = note.content_type
        properties.PayloadFormatIndicator = 1  # UTF-8
    if note.expiry_s is not None:
        properties.MessageExpiryInterval = note.expiry_s
    if note.replayed:
        properties.UserProperty = ("replayed", "true")
    if note.correlation is not None:
        properties.CorrelationData = note.correlation
    packed = properties.pack()  # type: ignore[no-untyped-call]  # as above
    object.__setattr__(properties, "pack", lambda: packed)  # paho packs them anew for each message: 8 µs of some 60
    return properties
