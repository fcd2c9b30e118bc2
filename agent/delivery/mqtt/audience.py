"""Whether what the broker took has reached anybody. A PUBACK says only that the broker has it, in its memory.

Invariants
- What the broker took just before a connection broke is in doubt (``ports.Unsure``): a broker that was killed may have
  taken it and passed it on to nobody. It comes once more, before anything newer; once only, so that nothing goes in
  circles.
- After a connect results wait a while for a subscriber, where the broker says that there is none (MQTT 5): of a broker
  that restarted without its sessions, a station is mostly back before those who listen to it.
"""

from __future__ import annotations

import threading
from collections import deque

from agent.clock import Clock
from agent.delivery.mqtt.connection import Connection
from agent.ports import Stored

_UNSURE_S = 1.0  #: what was taken so long before the last one …
_UNSURE = 500  #: … and no more than so many
_WAIT_S = 30.0  #: for a subscriber, where there was one before
_WAIT_AT_FIRST_S = 5.0  #: where we cannot know; less than ``run --once`` waits for a broker
_ASK_AGAIN_S = 0.5


class Audience:
    """Used by the thread that delivers, which says on which connection results go out and what became of each."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ended = threading.Event()  #: of the connection in use; holding itself would keep its sockets open
        self._taken: deque[tuple[float, int]] = deque(maxlen=_UNSURE)
        self._newest = 0  #: the highest sequence ever taken
        self.in_doubt = False  #: the connection before has broken, and ``doubt`` was not asked since
        self._patience_s, self._waits_until = _WAIT_AT_FIRST_S, 0.0

    def changed_to(self, connection: Connection, *, hurry: bool = False) -> bool:
        """Results go out on ``connection`` now; in a ``hurry`` they wait for nobody. Whether it is a new one."""
        if connection.ended is self._ended:
            return False
        self.in_doubt = bool(self._taken)
        self._ended = connection.ended
        self._waits_until = self._clock.monotonic() + (0.0 if hurry else self._patience_s)
        return True

    def doubt(self) -> int | None:
        """Where begins what the connection that broke took at its end. Told once."""
        if not self._taken or not (self.in_doubt or self._ended.is_set()):
            return None
        first = self._taken[0][1]
        self._taken.clear()
        self.in_doubt = False
        return first

    def took(self, one: Stored, *, again: bool, heard: bool) -> None:
        """The broker has acknowledged this one; ``heard``: without the remark that nobody was there."""
        if heard:  # so somebody is there: what goes out from now on, many at a time, waits no more
            self._patience_s, self._waits_until = _WAIT_S, 0.0
        if again or one.sequence <= self._newest:
            return
        now = self._clock.monotonic()
        self._newest = one.sequence
        self._taken.append((now, one.sequence))
        while now - self._taken[0][0] > _UNSURE_S:
            self._taken.popleft()

    def wait(self) -> bool:
        """Nobody has heard the last one. True after a while, if it is to be sent again; False to go on without."""
        if self._clock.monotonic() >= self._waits_until:
            self._patience_s = self._waits_until = 0.0
            return False
        self._ended.wait(_ASK_AGAIN_S)
        return True
