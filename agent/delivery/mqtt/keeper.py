"""Keeps one connection to a broker up, and says on it how the station is: birth, last will, goodbye.

Invariants
- A broker that is away stops nothing: connecting happens in a thread of its own, with backoff and jitter.
- A cause is logged when it changes, not each time it is met; ``broker_away`` stands on health as long as it lasts.
- Whoever sees the retained status sees the truth: ``online`` is published before any result of a connection, the last
  will says ``offline``, a clean stop says ``stopped``, and a late ``offline`` is answered with the present state.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from agent.clock import Clock, iso_utc
from agent.delivery.backoff import Backoff
from agent.delivery.mqtt.brokers import Brokers
from agent.delivery.mqtt.causes import TAKEN_OVER
from agent.delivery.mqtt.connection import Connection
from agent.delivery.mqtt.inbox import Inbox
from agent.delivery.mqtt.messages import End, Message, Sent, Will
from agent.delivery.mqtt.settings import Settings
from agent.delivery.mqtt.upkeep import Upkeep
from agent.errors import RetryError, UsageError
from agent.health import Health
from agent.logs import log

Status = Callable[[], dict[str, Any]]

_LOG = log("mqtt")
_BACKOFF_S = (0.2, 10.0)
_TAKEN_OVER_BACKOFF_S = (10.0, 30.0)  #: two stations under one name must not fight in a hot loop
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
        self._status_topic = f"{topic}/status"
        self._upkeep = Upkeep(self._status_topic, health, clock)
        self._backoff, self._shy = Backoff(*_BACKOFF_S), Backoff(*_TAKEN_OVER_BACKOFF_S, never_shorter=True)
        self._session, self._since = str(uuid.uuid4()), iso_utc(clock.now())
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        self._stopping, self._poke, self._refresh = threading.Event(), threading.Event(), threading.Event()
        self._ready = threading.Condition()
        self._connection: Connection | None = None
        self._wake: Callable[[], None] = lambda: None
        self._cause: str | None = None
        self._away_since: str | None = None
        self._told: Sent | None = None  #: the status as it was published last

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
                taken = "client_id_taken_over" in self._health.problems()
                self._stopping.wait((self._shy if taken else self._backoff).next_s())

    def _one_connection(self) -> bool:
        """From connect to its end; True where another broker is to be connected to at once.

        ``RetryError`` with the cause unless that, or the end, was our own wish.
        """
        connection = self._brokers.connect(self._open, self._stopping)
        self._upkeep.connected(connection.settings)
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
            self._brokers.ended(soon=self._upkeep.soon(connection))
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
        if self._health.over("broker_away"):
            self._upkeep.was_away(connection.settings, self._away_since)
        _LOG.info("connected to broker %s as %s", connection.settings.address, connection.settings.client_id)
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
            if self._upkeep.age():
                self._backoff.over()
                self._shy.over()
            self._upkeep.see_status_taken(self._told, connection.settings)
            if self._refresh.is_set():
                self._refresh.clear()
                self._told = connection.publish(self._status_topic, self._payload("online"), retain=True)
                continue
            self._poke.wait(1.0)
            self._poke.clear()

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
        if told.session and told.session != self._session:
            self._upkeep.other_session(told.session, told.state, self._brokers.used)

    def _ended(self, connection: Connection) -> None:
        end, settings = connection.end or End("ended"), connection.settings
        if end.code == TAKEN_OVER:
            self._upkeep.twin("the broker says so", self._brokers.used)
        elif self._upkeep.soon(connection):
            self._upkeep.short_lived(settings)
        raise RetryError(f"broker {settings.address} {end.text}")

    def _away(self, cause: str) -> None:
        if self._away_since is None:
            self._away_since = iso_utc(self._clock.now())
        news = self._health.raise_problem("broker_away", cause)
        if news or cause != self._cause:
            _LOG.warning("broker_away: %s; results are kept and delivered later", cause)
        self._cause = cause

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
