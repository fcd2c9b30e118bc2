"""What is watched of the connections to a broker, and said on health: how long they last, who else has our name.

Invariants: called from the keeper's thread, but for ``twin``, which may come from paho's; each problem ends by itself
once what it speaks of has been over for its time.
"""

from __future__ import annotations

from agent.clock import Clock, iso_utc
from agent.delivery.mqtt.causes import denied
from agent.delivery.mqtt.connection import Connection
from agent.delivery.mqtt.messages import Sent
from agent.delivery.mqtt.settings import Settings
from agent.health import Health
from agent.logs import log

_LOG = log("mqtt")
_GOOD_AFTER_S = 5.0  #: a connection that lasted so long begins again with the shortest pause
_UNSTABLE_AFTER = 4  #: connections in a row that the broker accepted and closed sooner than that
_GRACE_S = 2.0  #: so soon after our first connection to a broker, another session there is our own last life's
_WAS_AWAY_S = 60.0  #: how long the status tells that the broker was away
_TWIN_GONE_S = 60.0  #: how long no other session must be heard for the alarm to end


class Upkeep:
    """For one keeper."""

    def __init__(self, status_topic: str, health: Health, clock: Clock) -> None:
        self._status_topic, self._health, self._clock = status_topic, health, clock
        self._met: set[str] = set()  # brokers that this life was connected to
        self._first_here = True
        self._short_lived, self._up_at, self._twin_at = 0, 0.0, 0.0
        self._was_away_until: float | None = None

    def connected(self, settings: Settings) -> None:
        """A connection is up; nothing has been said on it yet."""
        self._up_at = self._clock.monotonic()
        self._first_here = settings.address not in self._met
        self._met.add(settings.address)

    def was_away(self, settings: Settings, since: str | None) -> None:
        """It is the first after a while without one."""
        now = iso_utc(self._clock.now())
        self._health.raise_problem("broker_was_away", f"broker {settings.address} was away from {since} to {now}")
        self._was_away_until = self._up_at + _WAS_AWAY_S

    def age(self) -> bool:
        """End what ends by itself once a connection has lasted. Whether it has lasted long enough to be a good one."""
        now = self._clock.monotonic()
        if self._was_away_until is not None and now >= self._was_away_until:
            self._was_away_until = None
            self._health.clear_problem("broker_was_away")
        good = now - self._up_at >= _GOOD_AFTER_S
        if good:
            self._short_lived = 0
            self._health.over("connection_unstable")
        if now - max(self._up_at, self._twin_at) >= _TWIN_GONE_S:
            self._health.over("client_id_taken_over")
        return good

    def see_status_taken(self, told: Sent | None, settings: Settings) -> None:
        """A broker that takes results may still refuse the status."""
        code = told.code if told is not None else None
        if code is None:
            return
        if code < 128:
            self._health.over("status_denied")
            return
        detail = denied(settings, f"publish to {self._status_topic} (PUBACK {code})")
        if self._health.raise_problem("status_denied", detail):
            _LOG.error("status_denied: %s; nobody sees how the station is", detail)

    def other_session(self, session: str, state: str, settings: Settings) -> None:
        """Heard on our status topic. On our first connection it is our own last life: its status, or its late will."""
        if not self._first_here or self._clock.monotonic() - self._up_at > _GRACE_S:
            self.twin(f"session {session} says {state!r} on {self._status_topic}", settings)

    def twin(self, seen: str, settings: Settings) -> None:
        """Somebody else lives under our name."""
        self._twin_at = self._clock.monotonic()
        detail = (
            f"another client took over client id {settings.client_id} or its topic at broker "
            f"{settings.address} ({seen}); does a second station have the same mqtt.topic or mqtt.client_id?"
        )
        if self._health.raise_problem("client_id_taken_over", detail):
            _LOG.error("client_id_taken_over: %s", detail)

    def soon(self, connection: Connection) -> bool:
        """The broker closed it as soon as it was up."""
        end = connection.end
        return end is not None and end.by_broker and self._clock.monotonic() - self._up_at < _GOOD_AFTER_S

    def short_lived(self, settings: Settings) -> None:
        """It did, once more."""
        self._short_lived += 1
        detail = (
            f"broker {settings.address} accepts the connection and closes it again and again; does another "
            f"client have the client id {settings.client_id}, is a result larger than the broker takes?"
        )
        if self._short_lived >= _UNSTABLE_AFTER and self._health.raise_problem("connection_unstable", detail):
            _LOG.error("connection_unstable: %s", detail)
