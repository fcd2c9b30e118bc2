"""The fresh verdict at once, on ``…/live``: for a lamp or a screen at the line, whatever backlog ``…/result`` has.

Invariants: QoS 0, never retained, never waited for and never sent again; what cannot leave now is dropped and counted.
It is told of only after the ledger's commit, so nothing is live that is not also a result.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from agent.delivery.mqtt.keeper import Keeper
from agent.delivery.mqtt.messages import Sent
from agent.health import Health
from agent.ports import Stored

_UNSENT = 50  #: at most so many wait in the process while a connection stands still


class Live:
    """``tell`` is called from one thread."""

    def __init__(self, topic: str, keeper: Keeper, health: Health) -> None:
        self._topic, self._keeper, self._health = topic, keeper, health
        self._unsent = deque[Sent]()

    def tell(self, fresh: Sequence[Stored]) -> None:
        """Send them if there is a connection that takes them."""
        connection = self._keeper.connection(0)
        while self._unsent and self._unsent[0].finished:
            self._unsent.popleft()
        for one in fresh:
            fits = connection is not None and len(one.body) + len(self._topic) + 64 <= connection.max_packet
            if connection is None or not fits or len(self._unsent) >= _UNSENT:
                self._health.count("live_dropped")
                continue
            self._unsent.append(connection.publish(self._topic, one.body, qos=0))
            self._health.count("live_sent")
