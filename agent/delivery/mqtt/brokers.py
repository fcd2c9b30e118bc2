"""Several brokers in order: the first that answers is used, and the way back to a better one is found again.

Invariants
- Each round of connecting begins with the first of the list. Only where the one in use closed the connection again soon
  does the next round begin with the one after it, so that a broker that accepts and hangs up holds nobody.
- While one further down is used, those before it are tried every 30 s under another client id (brokers of one cluster
  would take the station's own id for a second station); the first that answers is gone back to.
- Which broker is used is on status; that it is not the first is the problem ``broker_fallback``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from agent.delivery.mqtt.connection import Connection
from agent.delivery.mqtt.settings import Settings
from agent.errors import RetryError, UsageError
from agent.health import Health
from agent.logs import log

LOOK_AGAIN_S = 30.0
_LOG = log("mqtt")


def trouble_with(settings: Settings) -> str | None:
    """Connect as the station would, under another client id so as not to take over; what is wrong, or None."""
    try:
        connection = Connection(replace(settings, client_id=f"{settings.client_id[:50]}-check"))
        connection.open()
    except (RetryError, UsageError) as error:
        return str(error)
    connection.goodbye()
    return None


class Brokers:
    """For one keeper; called from its thread."""

    def __init__(self, settings: Sequence[Settings], health: Health) -> None:
        self._all, self._health = list(settings), health
        self._used = self._next = 0
        self._over = threading.Event()  #: ends the scout of the connection in use
        self.better = threading.Event()  #: one before the one in use answers again

    @property
    def used(self) -> Settings:
        """The broker in use, or the first while there is none."""
        return self._all[self._used]

    def connect(self, connection_to: Callable[[Settings], Connection], stopping: threading.Event) -> Connection:
        """The first broker that answers. ``RetryError`` with each one's cause when none does."""
        causes: list[str] = []
        for turn in range(len(self._all)):
            index = (self._next + turn) % len(self._all)
            if stopping.is_set():
                break
            try:
                connection = connection_to(self._all[index])
            except (RetryError, UsageError) as error:
                causes.append(str(error))
                continue
            self._used = index
            self._say(causes)
            return connection
        self._used = self._next = 0
        raise RetryError("; ".join(causes) or "stopping")

    def _say(self, causes: Sequence[str]) -> None:
        if self._used == 0:
            self._health.over("broker_fallback", f"{self.used.address} is used again")
            return
        why = "; ".join(causes) or f"broker {self._all[0].address} accepts the connection and closes it"
        detail = f"{why}; broker {self.used.address} is used meanwhile"
        if self._health.raise_problem("broker_fallback", detail):
            _LOG.warning("broker_fallback: %s", detail)

    def look_for_better(self, found: Callable[[], None]) -> None:
        """While one further down is used: set ``better`` and call ``found`` once one before it answers."""
        self.better.clear()
        if self._used == 0:
            return
        self._over = threading.Event()
        before = self._all[: self._used]
        threading.Thread(target=self._look, args=(before, found, self._over), name="mqtt-scout", daemon=True).start()

    def _look(self, better: Sequence[Settings], found: Callable[[], None], over: threading.Event) -> None:
        while not over.wait(LOOK_AGAIN_S):
            for settings in better:
                if trouble_with(settings) is None and not over.is_set():
                    _LOG.info("broker %s answers again; going back to it", settings.address)
                    self.better.set()
                    found()
                    return

    def ended(self, *, soon: bool) -> None:
        """The connection in use is over; ``soon``: its broker closed it as soon as it was up."""
        self._next = (self._used + 1) % len(self._all) if soon else 0
        self._over.set()  # a scout that waits for an answer just then is not waited for
