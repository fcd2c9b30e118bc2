"""What goes over a connection, and how it ends: plain data that knows nothing of paho."""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(frozen=True)
class Note:
    """What MQTT 5 says beside a payload. MQTT 3.1.1 has no place for it, and it is left out there."""

    content_type: str | None = "application/json"  #: of UTF-8 text; None: bytes of no declared kind
    expiry_s: int | None = None  #: how long the broker keeps the message for who is away
    replayed: bool = False  #: user property ``replayed: true``: sent again because someone asked for it
    correlation: bytes | None = None  #: in an answer: what the question carried


JSON = Note()


@dataclass(frozen=True)
class Will:
    """What the broker says for us when we are gone without a goodbye. QoS 1."""

    topic: str
    payload: bytes
    retain: bool = True
    note: Note = JSON


@dataclass(frozen=True)
class Message:
    """What came in on a subscribed topic."""

    topic: str
    payload: bytes
    retained: bool  #: kept by the broker from before, or (where subscribed ``as_published``) sent to be kept
    response_topic: str | None = None
    correlation: bytes | None = None


@dataclass(frozen=True)
class End:
    """How a connection ended."""

    text: str
    code: int = 0  #: the broker's reason code, 0 where it gave none
    by_broker: bool = False  #: the far end closed it, as opposed to a timeout or a goodbye of ours


class Sent:
    """A packet on its way to its reason code. One of QoS 0 ends with 0 when it has left the process."""

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

    @property
    def finished(self) -> bool:
        """Whether it is finished, without waiting."""
        return self._done.is_set()
