"""What is worth something only now, beside the results: ``…/live``, for a lamp or a screen at the line; ``…/shadow``.

Invariants: QoS 0, never retained, never waited for and never sent again; what cannot leave now is dropped and counted.
A deep backlog on ``…/result`` does not delay it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from agent.delivery.mqtt.keeper import Keeper
from agent.delivery.mqtt.messages import Sent
from agent.health import Health

_UNSENT = 50  #: at most so many wait in the process while a connection stands still


class Aside:
    """One topic, ``name`` below the station's. ``tell`` is called from one thread."""

    def __init__(self, topic: str, name: str, keeper: Keeper, health: Health) -> None:
        self._topic, self._name = f"{topic}/{name}", name
        self._keeper, self._health = keeper, health
        self._unsent = deque[Sent]()

    def tell(self, bodies: Iterable[bytes]) -> None:
        """Send these JSON texts, if there is a connection that takes them. Never blocks."""
        connection = self._keeper.connection(0)
        while self._unsent and self._unsent[0].finished:
            self._unsent.popleft()
        for body in bodies:
            if connection is None or not connection.takes(self._topic, body) or len(self._unsent) >= _UNSENT:
                self._health.count(f"{self._name}_dropped")
                continue
            self._unsent.append(connection.publish(self._topic, body, qos=0))
            self._health.count(f"{self._name}_sent")
