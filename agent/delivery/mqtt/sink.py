"""The MQTT sink: results in order of ``sequence``, at least once, each with the broker's own word that it took it.

Invariants
- At most 20 results (fewer where the broker says so) are on their way; after any trouble the next one goes alone, so
  that what follows never overtakes what was refused, and what breaks a connection is found out.
- A PUBACK is looked at: "not authorized" is ``publish_denied`` and kept, "too large" is a dead letter.
- What a broker took just before a connection broke is in doubt; where nobody hears it, it waits (``audience``).
- A result is given up as what breaks connections only when it was the end of five in a row, each of which had just been
  seen to work and to last (``suspect``); a broker that comes and goes by itself buries nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from agent.clock import Clock
from agent.config import MqttConfig
from agent.delivery.mqtt import causes
from agent.delivery.mqtt.aside import Aside
from agent.delivery.mqtt.audience import Audience
from agent.delivery.mqtt.connection import Connection
from agent.delivery.mqtt.inbox import Inbox
from agent.delivery.mqtt.keeper import Keeper, Status
from agent.delivery.mqtt.messages import Note, Sent
from agent.delivery.mqtt.settings import settings_of
from agent.delivery.suspect import STRIKES, Suspect
from agent.errors import RejectError, RetryError
from agent.health import Health
from agent.logs import log
from agent.ports import Commands, Pace, Stored

_LOG = log("mqtt")
_WINDOW = 20
_SPARED = 2  #: of what the broker takes at a time: status, health and answers are QoS 1, too
_STRIKE_WITHIN_S = 2.0  #: a connection that ends so soon after a result was sent may have ended because of it …
_QUIET_S = 2.0  #: … if it had lasted so long before
_WAIT_FOR_CONNECTION_S = 1.0
_PUBACK_S = 30.0


class MqttSink:
    """Constructing it connects nothing; ``open`` starts the connecting, in a thread of its own.

    ``status`` gives what the status topic says beside ``state``, ``session`` and ``since``; it is called from the
    connection's thread and must not block. ``once``: a run that ends by itself, and waits for
    no subscriber. ``UsageError`` for certificates or secrets that cannot be read.
    """

    name = "mqtt"
    pace = Pace(batch=500, batch_bytes=1 << 20, backoff_max_s=30.0, problem_after_s=None)

    def __init__(
        self,
        config: MqttConfig,
        topic: str,
        status: Status,
        health: Health,
        clock: Clock,
        commands: Commands | None = None,
        *,
        once: bool = False,
        taken: Callable[[], Stored | None] = lambda: None,
    ) -> None:
        """``taken()``: what the broker accepted last in an earlier life of the agent."""
        settings = [settings_of(one, topic, health) for one in config.each()]
        self._topic, self._health_topic = f"{topic}/result", f"{topic}/health"
        self._fresh, self._again = (Note(expiry_s=config.message_expiry_s, replayed=again) for again in (False, True))
        self._health, self._clock, self._once = health, clock, once
        self._inbox = Inbox(topic, commands, health, clock) if commands and config.commands else None
        self._spared = _SPARED + int(self._inbox is not None)
        self._keeper = Keeper(settings, topic, status, health, clock, self._inbox)
        self._live = Aside(topic, "live", self._keeper, health) if config.live else None
        self._shadow = Aside(topic, "shadow", self._keeper, health)
        self._says_nothing_of_refusals = config.protocol != 5
        self._audience = Audience(clock)
        self._alone = False
        self._suspects = {again: Suspect(taken) for again in (False, True)}
        self._suspect = self._suspects[False]  #: of the lane that is being delivered

    def open(self, wake: Callable[[], None]) -> None:
        """Begin to connect."""
        if self._says_nothing_of_refusals:
            _LOG.warning(
                "protocol_limits: mqtt.protocol is 3.1.1: a broker that refuses a result cannot say so, and it counts "
                "as delivered; use 5 where the broker speaks it"
            )
        if self._inbox is not None:
            self._inbox.start()
        self._keeper.start(wake)

    def close(self) -> None:
        """Say ``stopped`` and disconnect."""
        if self._inbox is not None:
            self._inbox.stop()
        self._keeper.stop()

    def tell_live(self, fresh: Sequence[Stored]) -> None:
        """These have just become durable: with ``mqtt.live`` they go out at once, once. Never blocks."""
        if self._live is not None:
            self._live.tell(one.body for one in fresh)

    def tell_shadow(self, bodies: Iterable[bytes]) -> None:
        """What a candidate says of frames, on ``…/shadow``: evidence, no promise. Never blocks."""
        self._shadow.tell(bodies)

    def publish_status(self) -> None:
        """The condition of the station has changed: publish it (soon, and only while connected)."""
        self._keeper.publish_status()

    def publish_health(self, gauges: dict[str, Any]) -> None:
        """Counters and gauges, QoS 1, not retained; dropped while not connected."""
        connection = self._keeper.connection(0)
        if connection is not None:
            connection.publish(self._health_topic, msgspec.json.encode(gauges))

    def deliver(self, batch: Sequence[Stored]) -> int:
        """Publish from the front and wait for the PUBACKs; how many the broker has accepted."""
        return self._deliver(batch, self._fresh)

    def doubt(self) -> int | None:
        """``ports.Unsure``: where begins what the broker took in its last second."""
        return self._audience.doubt()

    def deliver_again(self, batch: Sequence[Stored]) -> int:
        """``ports.Replaying``: the same, marked as replayed."""
        return self._deliver(batch, self._again)

    def _deliver(self, batch: Sequence[Stored], note: Note) -> int:
        connection = self._keeper.connection(_WAIT_FOR_CONNECTION_S)
        if connection is None:
            raise RetryError(self._keeper.cause)
        self._suspect = self._suspects[note.replayed]
        hurry = self._once and "broker_was_away" not in self._health.problems()  # the broker has its subscribers
        if self._audience.changed_to(connection, hurry=hurry):
            self._alone = True
            for suspect in self._suspects.values():
                suspect.connected()
        if self._audience.in_doubt:
            raise RetryError("what the broker took last before it was gone comes first")
        if self._suspect.is_(batch[0]):
            self._see_it_work(connection)
        return self._send(connection, batch, note)

    def _see_it_work(self, connection: Connection) -> None:
        """Before the suspect goes out. ``RetryError`` when the connection breaks without it."""
        if connection.ended.wait(_QUIET_S):
            raise RetryError(self._keeper.cause)
        if (other := self._suspect.wants_proof) is not None:
            try:
                self._send(connection, [other], self._fresh)
            except RejectError as error:
                raise RetryError(f"what it took before it takes no more: {error}") from None
        elif connection.birth is not None:
            connection.birth.wait(_PUBACK_S)

    def _send(self, connection: Connection, batch: Sequence[Stored], note: Note) -> int:
        flying: deque[Sent] = deque()
        accepted = 0
        while accepted < len(batch):
            if accepted and self._suspect.is_(batch[accepted]):
                return accepted
            self._fill(connection, batch, accepted, flying, note)
            if not flying:  # the next one is larger than the broker takes
                return self._unless_first(accepted, RejectError(self._too_large(connection, batch[accepted])))
            sent_at = self._clock.monotonic()
            if not flying[0].wait(_PUBACK_S):
                connection.drop(f"answered no PUBLISH within {_PUBACK_S:g} s")
            code = flying[0].code
            if code is None:
                self._suspect.lost(batch[accepted + len(flying) - 1])
                return self._unless_first(accepted, self._broken(connection, batch[accepted], sent_at))
            if code >= 128:
                return self._unless_first(accepted, self._refused(connection, code))
            if code == causes.NO_SUBSCRIBERS and self._audience.wait():
                flying.clear()
                self._alone = True
                continue
            flying.popleft()
            self._audience.took(batch[accepted], again=note.replayed, heard=code != causes.NO_SUBSCRIBERS)
            self._suspect.accepted(batch[accepted])
            accepted += 1
            self._worked()
        return accepted

    def _fill(
        self, connection: Connection, batch: Sequence[Stored], accepted: int, flying: deque[Sent], note: Note
    ) -> None:
        alone = self._alone or self._suspect.goes_alone(batch[accepted])
        window = 1 if alone else min(_WINDOW, max(1, connection.receive_max - self._spared))
        while len(flying) < window and (index := accepted + len(flying)) < len(batch):
            body = batch[index].body
            if not connection.takes(self._topic, body, note) or (flying and self._suspect.goes_alone(batch[index])):
                return
            flying.append(connection.publish(self._topic, body, note=note))

    def _unless_first(self, accepted: int, error: RetryError | RejectError) -> int:
        """Trouble ends the batch. What was accepted counts; the next call meets the trouble with nothing before it."""
        self._alone = True
        if accepted:
            return accepted
        try:
            raise error
        finally:
            del error  # its traceback holds this frame: in a cycle, a dead connection would keep its sockets for long

    def _worked(self) -> None:
        self._alone = False
        self._health.over("publish_denied", f"the broker takes results on {self._topic} again")

    def _refused(self, connection: Connection, code: int) -> RetryError | RejectError:
        """What a PUBACK other than success means."""
        if code in causes.NEVER:
            return RejectError(f"{causes.NEVER[code]} (PUBACK {code})")
        broker = connection.settings.address
        if code == causes.NOT_AUTHORIZED:
            detail = causes.denied(connection.settings, f"publish to {self._topic}")
            if self._health.raise_problem("publish_denied", detail):
                _LOG.error("publish_denied: %s; results are kept and tried again", detail)
            return RetryError(detail)
        return RetryError(f"broker {broker} refuses a result for now (PUBACK {code})")

    def _broken(self, connection: Connection, one: Stored, sent_at: float) -> RetryError | RejectError:
        """The connection ended before the PUBACK. Was it this very result that ended it?"""
        end = connection.end
        soon = self._clock.monotonic() - sent_at <= _STRIKE_WITHIN_S
        if end is not None and end.by_broker:
            if end.code == causes.PACKET_TOO_LARGE and self._alone and soon and connection.proven:
                return RejectError(f"{causes.NEVER[end.code]} ({len(one.body)} bytes)")
            if self._suspect.broke(one, begun=connection.proven, soon=soon):
                return RejectError(f"the broker ended the connection {STRIKES} times in a row when it was sent")
        return RetryError(f"broker {connection.settings.address} {end.text if end else 'is gone'}")

    def _too_large(self, connection: Connection, one: Stored) -> str:
        return f"{len(one.body)} bytes, and the broker takes packets up to {connection.max_packet} bytes"
