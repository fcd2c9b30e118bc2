"""One Sparkplug session: from CONNECT, which leaves the death certificate with the broker, to its end.

    CONNECT (will: NDEATH) ▸ subscribe ▸ NBIRTH, seq 0 ▸ DBIRTH, seq 1 ▸ DDATA, seq 2 … 255, 0, 1, … ▸ DDEATH ▸ NDEATH

Invariants
- The specification sends births and data with QoS 0, which nobody acknowledges. So the station listens to itself: what
  the broker hands back to us, it took and handed on, and only that counts as delivered. At most 50 are on their way.
- Nothing is sent before the births came back; data stop while births are made; ``seq`` has no gap. A message that the
  broker swallows makes one: then everything begins anew with a birth.
- After the births comes what was sent of late, once more and flagged as historical: the host that asks for them, or
  whose broker was away, may have missed it.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from agent import __version__
from agent.clock import Clock
from agent.delivery.mqtt.connection import Connection
from agent.delivery.mqtt.messages import Message, Note, Will
from agent.delivery.mqtt.settings import Settings
from agent.delivery.sparkplug import metrics
from agent.delivery.sparkplug.host import PrimaryHost
from agent.delivery.sparkplug.memory import Memory
from agent.delivery.sparkplug.names import DeniedError, Names, SwallowedError
from agent.delivery.sparkplug.payload import Type, Value, metric, payload, switched_on
from agent.errors import RejectError, RetryError
from agent.ports import Stored

_REBIRTH = "Node Control/Rebirth"
WINDOW = 50
_ECHO_S = 10.0  #: a broker that hands nothing back for so long does not take what we send
_SOON_S = 2.0
_ANSWER_S = 5.0
_BIRTH_PAUSE_S = 5.0  #: so long after a birth none is made only because somebody asks
_COMMAND_MAX = 64 << 10  #: bytes of a command that are looked at
_BYTES = Note(content_type=None)


class Session:
    """``open`` it, ``birth`` it, ``send``; then ``farewell``. One thread at a time, under ``lock``."""

    def __init__(
        self, settings: Settings, names: Names, count: int, host_id: str | None, memory: Memory, clock: Clock
    ) -> None:
        self.lock = threading.RLock()
        self.wake = threading.Event()  #: set when there is something to look at: a command, the host, the end
        self.host = PrimaryHost(host_id)
        self._names, self._count, self._memory, self._clock = names, count, memory, clock
        self._born_at: float | None = None  # monotonic
        self._announced = self._wanted = self._broken = self._leaving = self._swallowed = False
        self._seq = self._boundary = self._back = 0
        self._known: Mapping[str, Value] = {}
        self._flying: deque[tuple[bytes, bool]] = deque()  # and whether it counts in ``_back``
        self._moved = threading.Condition()
        will = Will(names.of_node("NDEATH"), self._death(), retain=False, note=_BYTES)
        self.connection = Connection(settings, will, on_message=self._heard)

    # --- from birth to death ---

    def open(self) -> None:
        """Connect and subscribe. ``RetryError`` with the cause when there is no broker, or it refuses."""
        self.connection.open(self._tell)
        for topic in (self._names.of_node("NCMD"), self.host.topic):
            if topic is not None:
                self._subscribe(topic, 1)
        for topic in (self._names.of_node("NBIRTH"), self._names.of_device("DBIRTH"), self._names.of_device("DDATA")):
            self._subscribe(topic, 0)

    def _subscribe(self, topic: str, qos: int) -> None:
        answer = self.connection.subscribe(topic, qos)
        answer.wait(_ANSWER_S)
        if answer.code is None:
            raise RetryError(f"broker {self._address} did not answer a SUBSCRIBE")
        if answer.code >= 128:
            raise DeniedError(f"broker {self._address} does not let {self._who} subscribe to {topic}")

    def birth(self) -> None:
        """NBIRTH and DBIRTH, then what was sent of late. ``RetryError`` when the broker does not hand them back."""
        with self.lock:
            with self._moved:
                self._flying.clear()
                self._swallowed = False
            self._wanted, self._broken = False, True  # until all of it came back
            self._seq, now = 0, self._now()
            newest = self._memory.newest()
            present = metrics.datum(newest.body) if newest else None
            self._memory.learn(present.labels if present else ())
            self._announced = True
            try:
                self._put(self._names.of_node("NBIRTH"), self._controls(now))
                self._settle(0)
                self._put(self._names.of_device("DBIRTH"), metrics.births(self._memory.labels, present, now))
                self._settle(0)
            except RejectError as error:
                raise DeniedError(f"broker {self._address} takes no births: {error}") from None
            self._known = present.values if present else {}
            self._boundary = newest.sequence if newest else 0
            for one in self._memory.overlap.recent():
                self._settle(WINDOW - 1)
                with contextlib.suppress(RejectError):  # a broker that takes less than the one before: it had it once
                    self._put(self._names.of_device("DDATA"), metrics.historical(metrics.datum(one.body)))
            self._settle(0)
            self._broken, self._born_at = False, self._clock.monotonic()

    def birth_if_due(self) -> bool:
        """Make the births that a gap in ``seq`` needs, or a host asked for: not every second, hosts come in crowds."""
        with self.lock:
            if not self._broken and not (self._wanted and self._rested()):
                return False
            self.birth()
            return True

    def _rested(self) -> bool:
        return self._born_at is None or self._clock.monotonic() - self._born_at >= _BIRTH_PAUSE_S

    def leave(self) -> None:
        """End a ``send`` or ``birth`` that waits. From any thread."""
        self._leaving = True
        self._tell()

    def farewell(self) -> None:
        """Say that device and node go, and disconnect so that the broker says it as well."""
        self.leave()
        with self.lock:
            if self._born_at is not None:
                gone = payload([], self._now(), self._seq)
                self.connection.publish(self._names.of_device("DDEATH"), gone, qos=0, note=_BYTES)
            if self._announced:
                self.connection.publish(self._names.of_node("NDEATH"), self._death(), note=_BYTES).wait(_ANSWER_S)
            self.connection.goodbye(with_will=self._announced)

    def _controls(self, now: int) -> list[bytes]:
        return [
            metric("bdSeq", Type.INT64, self._count, now, declare=True),
            metric(_REBIRTH, Type.BOOLEAN, False, now, declare=True),
            metric("Properties/Product", Type.STRING, "weldwatch", now, declare=True),
            metric("Properties/Version", Type.STRING, __version__, now, declare=True),
        ]

    def _death(self) -> bytes:
        now = self._now()
        return payload([metric("bdSeq", Type.INT64, self._count, now, declare=True)], now, None)

    # --- data ---

    def send(self, batch: Sequence[Stored], *, alone: bool = False, again: bool = False) -> int:
        """Publish from the front; how many came back. Trouble with the first is raised.

        ``alone``: the first only. ``again``: it is history, whatever it is. ``SwallowedError``: the broker did not hand
        it on, but what came behind it. ``RejectError``: larger than the broker takes, or no result at all.
        """
        with self.lock:
            self.birth_if_due()
            self._back = 0
            trouble: RetryError | RejectError | None = None
            try:
                trouble = self._put_batch(batch[:1] if alone else batch, again)
                if alone or not self._settled():
                    self._put(self._names.of_device("DDATA"), self._filler())
                    self._settle(0)
            except RetryError as error:
                trouble = error
            self._broken = self._broken or isinstance(trouble, SwallowedError)
            self._memory.overlap.add(batch[: self._back])
            if self._back == 0 and trouble is not None:
                raise trouble
            return self._back

    def _put_batch(self, batch: Sequence[Stored], again: bool) -> RejectError | None:
        """Publish in order; ends at one that can never be, and says why."""
        for one in batch:
            self._settle(WINDOW - 1)
            try:
                self._put_data(one, again)
            except RejectError as error:
                return error
        return None

    def _put_data(self, one: Stored, again: bool) -> None:
        try:
            datum = metrics.datum(one.body)
        except ValueError as error:
            raise RejectError(str(error)) from None
        if self._memory.learn(datum.labels):  # another bundle: metrics that no birth declared
            self._settle(0)
            self.birth()
        late = again or one.sequence <= self._boundary
        content = metrics.historical(datum) if late else metrics.live(datum, self._known)
        self._put(self._names.of_device("DDATA"), content, counts=True)
        if not late:
            self._known = datum.values

    def _settled(self) -> bool:
        """Whether all came back soon. If not, a message behind them shows whether it is them or the broker."""
        try:
            self._settle(0, _SOON_S)
        except DeniedError:
            return False
        return True

    def _filler(self) -> list[bytes]:
        return [metric("schema", Type.STRING, self._known.get("schema"), self._now())]

    def _put(self, topic: str, content: Iterable[bytes], *, counts: bool = False) -> None:
        """Publish one message with the next ``seq``."""
        message = payload(content, self._now(), self._seq)
        if not self.connection.takes(topic, message, _BYTES):
            raise RejectError(f"{len(message)} bytes, and the broker takes packets up to {self.connection.max_packet}")
        self._seq = (self._seq + 1) % 256
        with self._moved:
            self._flying.append((message, counts))
        self.connection.publish(topic, message, qos=0, note=_BYTES)

    def _settle(self, most: int, within_s: float | None = None) -> None:
        """Wait until at most ``most`` messages have not come back. ``RetryError`` says why they will not."""

        def over() -> bool:
            return self._swallowed or self._leaving or self.connection.ended.is_set() or not self.host.online

        with self._moved:
            self._moved.wait_for(lambda: len(self._flying) <= most or over(), within_s or _ECHO_S)
            if len(self._flying) <= most and not over():
                return
        end = self.connection.end
        if end is not None:
            raise RetryError(f"broker {self._address} {end.text}")
        if self._leaving or not self.host.online:
            raise RetryError("the session ends" if self.host.online else "the primary host went offline")
        if self._swallowed:
            raise SwallowedError(f"broker {self._address} did not hand on a message, and did the next one")
        raise DeniedError(
            f"broker {self._address} does not hand back what is published on {self._names.of_device('DDATA')}; "
            f"allow {self._who} to write and to read what lies under spBv1.0/{self._names.group}/+/{self._names.node}"
        )

    # --- what comes in: the connection's thread, which must not wait for the lock ---

    def _heard(self, message: Message) -> None:
        if message.topic == self.host.topic:
            if self.host.heard(message.payload):
                self._wanted = self._wanted or self.host.online
                self._tell()
        elif message.retained:
            return
        elif message.topic == self._names.of_node("NCMD"):
            self._command(message.payload)
        else:
            with self._moved:
                self._came_back(message.payload)
                self._moved.notify_all()

    def _command(self, told: bytes) -> None:
        """One command is known, and no other obeyed: to make the births anew."""
        try:
            asked = len(told) <= _COMMAND_MAX and _REBIRTH in switched_on(told)
        except ValueError:
            return
        if asked:
            self._wanted = True
            self._tell()

    def _came_back(self, message: bytes) -> None:
        if self._flying and self._flying[0][0] == message:
            _, counts = self._flying.popleft()
            self._back += counts
        elif any(flying == message for flying, _ in self._flying):
            self._swallowed = True

    def _tell(self) -> None:
        self.wake.set()
        with self._moved:
            self._moved.notify_all()

    @property
    def host_left(self) -> bool:
        """The primary host went, after births were made for it."""
        return self._announced and not self.host.online

    @property
    def _address(self) -> str:
        return self.connection.settings.address

    @property
    def _who(self) -> str:
        return f"user {self.connection.settings.username or '(none)'}"

    def _now(self) -> int:
        return round(self._clock.now().timestamp() * 1000)
