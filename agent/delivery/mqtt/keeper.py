"""Keeps one connection to a broker up, and says on it how the station is: birth, last will, goodbye.

Invariants
- A broker that is away stops nothing: connecting happens in a thread of its own, with backoff and jitter.
- A cause is logged when it changes, not each time it is met; ``broker_away`` stands on health as long as it lasts.
- Whoever sees the retained status sees the truth: ``online`` is published before any result of a connection, the last
  will says ``offline``, a clean stop says ``stopped``, and a late ``offline`` is answered with the present state.
"""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from agent.clock import Clock, iso_utc
from agent.delivery.mqtt.brokers import Brokers
from agent.delivery.mqtt.causes import TAKEN_OVER, denied
from agent.delivery.mqtt.connection import Connection
from agent.delivery.mqtt.inbox import Inbox
from agent.delivery.mqtt.messages import End, Message, Sent, Will
from agent.delivery.mqtt.settings import Settings
from agent.errors import RetryError, UsageError
from agent.health import Health
from agent.logs import log

Status = Callable[[], dict[str, Any]]

_LOG = log("mqtt")
_BACKOFF_S = (0.2, 10.0)
_TAKEN_OVER_BACKOFF_S = (10.0, 30.0)  #: two stations under one name must not fight in a hot loop
_GOOD_AFTER_S = 5.0  #: a connection that lasted so long begins again with the shortest pause
_UNSTABLE_AFTER = 4  #: connections in a row that the broker accepted and closed sooner than that
_GRACE_S = 2.0  #: so soon after our first connection to a broker, another session there is our own last life's
_WAS_AWAY_S = 60.0  #: how long the status tells that the broker was away
_TWIN_GONE_S = 60.0  #: how long no other session must be heard for the alarm to end
_ACK_S = 2.0


class Keeper:
    """``start`` once, ``stop`` once (more does no harm)."""

    def __init__(
        self,
        settings: Sequence[Settings],
        topic: str,
        status: Status,
        health: Health,
        clock: Clock,
        inbox: Inbox | None = None,
    ) -> None:
        self._status, self._health, self._clock, self._inbox = status, health, clock, inbox
        self._brokers = Brokers(settings, health)
        self._met: set[str] = set()  # brokers that this life was connected to
        self._status_topic = f"{topic}/status"
        self._session, self._since = str(uuid.uuid4()), iso_utc(clock.now())
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        self._stopping, self._poke, self._refresh = threading.Event(), threading.Event(), threading.Event()
        self._ready = threading.Condition()
        self._connection: Connection | None = None
        self._wake: Callable[[], None] = lambda: None
        self._cause: str | None = None
        self._away_since: str | None = None
        self._failures, self._short_lived, self._up_at = 0, 0, 0.0
        self._told: Sent | None = None  #: the status as it was published last
        self._first_here = True
        self._twin_at = 0.0
        self._was_away_until: float | None = None

    # --- for the sink ---

    def start(self, wake: Callable[[], None]) -> None:
        """Begin to connect; ``wake`` is called when a connection is up, and when it is over."""
        self._wake = wake
        self._thread.start()

    def stop(self) -> None:
        """Say ``stopped`` and goodbye where there is a connection; never waits for one."""
        if self._stopping.is_set() or self._thread.ident is None:
            return
        self._stopping.set()
        self._poke.set()
        with self._ready:
            self._ready.notify_all()
        self._thread.join(2 * _ACK_S)

    def connection(self, timeout: float) -> Connection | None:
        """The connection that is up, waiting for one at most ``timeout`` seconds."""
        with self._ready:
            self._ready.wait_for(lambda: self._usable() is not None or self._stopping.is_set(), timeout)
            return self._usable()

    def _usable(self) -> Connection | None:
        connection = self._connection
        return None if connection is None or connection.ended.is_set() else connection

    @property
    def cause(self) -> str:
        """Why there is no connection at present."""
        return self._cause or f"broker {self._brokers.used.address} is being connected to"

    def publish_status(self) -> None:
        """Publish the status soon; several wishes become one."""
        self._refresh.set()
        self._poke.set()

    # --- the thread ---

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if self._one_connection():
                    continue
            except (RetryError, UsageError) as error:
                self._away(str(error))
            except Exception as error:  # noqa: BLE001  # a fault of ours must not end the thread: logged whole, tried again
                _LOG.exception("broker_away: unexpected %r; connecting again", error)
                self._away(f"unexpected {error!r}")
            finally:
                self._set(None)
            if not self._stopping.is_set():
                self._back_off()

    def _one_connection(self) -> bool:
        """From connect to its end; True where another broker is to be connected to at once.

        ``RetryError`` with the cause unless that, or the end, was our own wish.
        """
        connection = self._brokers.connect(self._open, self._stopping)
        self._up_at = self._clock.monotonic()
        self._brokers.look_for_better(self._poke.set)
        try:
            self._up(connection)
            self._tend(connection)
            if not connection.ended.is_set() and self._leave(connection):
                return True
        finally:
            if not connection.ended.is_set():
                connection.drop("left because of a fault")
            connection.join()
            self._brokers.ended(soon=self._soon(connection))
            self._wake()
        if not self._stopping.is_set():
            self._ended(connection)
        return False

    def _open(self, settings: Settings) -> Connection:
        will = Will(self._status_topic, self._payload("offline", settings))
        connection = Connection(settings, will, on_message=self._heard)
        connection.open(self._poke.set)
        return connection

    def _leave(self, connection: Connection) -> bool:
        """Of our own will. True where it is for a better broker: then this one gives out the last will."""
        self._set(None)
        if not self._stopping.is_set():
            connection.drop("was left for one before it in mqtt.brokers")
            return True
        connection.publish(self._status_topic, self._payload("stopped"), retain=True).wait(_ACK_S)
        connection.goodbye()
        return False

    def _up(self, connection: Connection) -> None:
        address = connection.settings.address
        self._first_here = address not in self._met
        self._met.add(address)
        if self._health.over("broker_away"):
            now = iso_utc(self._clock.now())
            self._health.raise_problem("broker_was_away", f"broker {address} was away from {self._away_since} to {now}")
            self._was_away_until = self._up_at + _WAS_AWAY_S
        _LOG.info("connected to broker %s as %s", address, connection.settings.client_id)
        self._cause = self._away_since = None
        self._refresh.clear()
        connection.subscribe(self._status_topic)  # first, so as to hear whose status stands there
        connection.birth = self._told = connection.publish(self._status_topic, self._payload("online"), retain=True)
        if self._inbox is not None:
            self._inbox.connected(connection)
        self._set(connection)
        self._wake()

    def _tend(self, connection: Connection) -> None:
        """Until the connection ends, we stop, or a better broker is back: publish the status when asked to."""
        while not (self._stopping.is_set() or connection.ended.is_set() or self._brokers.better.is_set()):
            self._age(self._clock.monotonic())
            self._see_status_taken(connection)
            if self._refresh.is_set():
                self._refresh.clear()
                self._told = connection.publish(self._status_topic, self._payload("online"), retain=True)
                continue
            self._poke.wait(1.0)
            self._poke.clear()

    def _age(self, now: float) -> None:
        """What ends by itself once a connection has lasted."""
        if self._was_away_until is not None and now >= self._was_away_until:
            self._was_away_until = None
            self._health.clear_problem("broker_was_away")
        if now - self._up_at >= _GOOD_AFTER_S:
            self._failures = self._short_lived = 0
            self._health.over("connection_unstable")
        if now - max(self._up_at, self._twin_at) >= _TWIN_GONE_S:
            self._health.over("client_id_taken_over")

    def _see_status_taken(self, connection: Connection) -> None:
        """A broker that takes results may still refuse the status."""
        code = self._told.code if self._told is not None else None
        if code is None:
            return
        if code < 128:
            self._health.over("status_denied")
            return
        detail = denied(connection.settings, f"publish to {self._status_topic} (PUBACK {code})")
        if self._health.raise_problem("status_denied", detail):
            _LOG.error("status_denied: %s; nobody sees how the station is", detail)

    def _heard(self, message: Message) -> None:
        """paho's thread: a command, or what our own status topic says."""
        if self._stopping.is_set():
            return
        if message.topic == self._status_topic:
            self._heard_status(message)
        elif self._inbox is not None:
            self._inbox.heard(message)

    def _heard_status(self, message: Message) -> None:
        """That we are not there, or that we are somebody else."""
        try:
            told = msgspec.json.decode(message.payload, type=_State)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            told = _State("not a status")
        if told.state != "online" and not message.retained:
            _LOG.info("the status topic says %r; publishing the present status again", told.state)
            self.publish_status()
        # On our first connection another session is our own last life: its retained status, or its late last will.
        lived = not self._first_here or self._clock.monotonic() - self._up_at > _GRACE_S
        if told.session and told.session != self._session and lived:
            self._twin(f"session {told.session} says {told.state!r} on {self._status_topic}")

    def _twin(self, seen: str) -> None:
        """Somebody else lives under our name."""
        self._twin_at = self._clock.monotonic()
        detail = (
            f"another client took over client id {self._brokers.used.client_id} or its topic at broker "
            f"{self._brokers.used.address} ({seen}); does a second station have the same mqtt.topic or mqtt.client_id?"
        )
        if self._health.raise_problem("client_id_taken_over", detail):
            _LOG.error("client_id_taken_over: %s", detail)

    def _soon(self, connection: Connection) -> bool:
        """The broker closed it as soon as it was up."""
        end = connection.end
        return end is not None and end.by_broker and self._clock.monotonic() - self._up_at < _GOOD_AFTER_S

    def _ended(self, connection: Connection) -> None:
        end, settings = connection.end or End("ended"), connection.settings
        if end.code == TAKEN_OVER:
            self._twin("the broker says so")
        elif self._soon(connection):
            self._short_lived += 1
            detail = (
                f"broker {settings.address} accepts the connection and closes it again and again; does another "
                f"client have the client id {settings.client_id}, is a result larger than the broker takes?"
            )
            if self._short_lived >= _UNSTABLE_AFTER and self._health.raise_problem("connection_unstable", detail):
                _LOG.error("connection_unstable: %s", detail)
        raise RetryError(f"broker {settings.address} {end.text}")

    def _away(self, cause: str) -> None:
        if self._away_since is None:
            self._away_since = iso_utc(self._clock.now())
        news = self._health.raise_problem("broker_away", cause)
        if news or cause != self._cause:
            _LOG.warning("broker_away: %s; results are kept and delivered later", cause)
        self._cause = cause

    def _back_off(self) -> None:
        self._failures += 1
        taken = "client_id_taken_over" in self._health.problems()
        shortest, longest = _TAKEN_OVER_BACKOFF_S if taken else _BACKOFF_S
        pause = min(longest, shortest * 2 ** min(self._failures - 1, 16))
        low = shortest if taken else pause / 4
        until = self._clock.monotonic() + random.uniform(low, max(low, pause))  # noqa: S311  # spreads retries
        while not self._stopping.is_set() and (left := until - self._clock.monotonic()) > 0:
            self._stopping.wait(left)

    def _set(self, connection: Connection | None) -> None:
        with self._ready:
            self._connection = connection
            self._ready.notify_all()

    def _payload(self, state: str, settings: Settings | None = None) -> bytes:
        """What the status topic says; the same fields in every state."""
        broker = (settings or self._brokers.used).address
        told = self._status()
        if state != "online":
            told = {**told, "inspecting": False, "problems": [], "sources": []}
        life = {"state": state, "session": self._session, "since": self._since, "broker": broker}
        return msgspec.json.encode({**life, **told})


class _State(msgspec.Struct):
    state: str
    session: str = ""
