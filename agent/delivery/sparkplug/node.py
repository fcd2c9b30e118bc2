"""Keeps a session of the edge node up: connecting, waiting for the primary host, births, death.

Invariants
- A broker that is away stops nothing: connecting happens in a thread of its own, with backoff and jitter.
- ``bdSeq`` rises with each connection, whatever ended the last one.
- With a primary host nothing is published before it is online, and when it goes the station leaves the broker, as the
  specification wants it; results wait in the ledger meanwhile.
- A cause is logged when it changes, and stands on health as long as it lasts.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence

from agent.clock import Clock
from agent.delivery.backoff import Backoff
from agent.delivery.mqtt.settings import Settings
from agent.delivery.sparkplug.memory import BirthCount, Memory
from agent.delivery.sparkplug.names import DeniedError, Names
from agent.delivery.sparkplug.session import Session
from agent.errors import RetryError, UsageError
from agent.health import Health
from agent.logs import log

_LOG = log("sparkplug")
_BACKOFF_S = (0.2, 10.0)
_GOOD_AFTER_S = 5.0  #: a session that lasted so long begins again with the shortest pause
_HOST_GRACE_S = 1.0  #: how long the retained STATE of the host may take
_LOOK_S = 1.0


class EdgeNode:
    """``start`` once, ``stop`` once (more does no harm)."""

    def __init__(
        self,
        brokers: Sequence[Settings],
        names: Names,
        host_id: str | None,
        memory: Memory,
        count: BirthCount,
        health: Health,
        clock: Clock,
    ) -> None:
        self._brokers, self._names, self._host_id = itertools.cycle(brokers), names, host_id
        self._memory, self._count, self._health, self._clock = memory, count, health, clock
        self._thread = threading.Thread(target=self._run, name="sparkplug", daemon=True)
        self._stopping = threading.Event()
        self._ready = threading.Condition()
        self._trying: Session | None = None
        self._session: Session | None = None
        self._wake: Callable[[], None] = lambda: None
        self._cause = "the broker is being connected to"
        self._backoff = Backoff(*_BACKOFF_S)
        self._data_denied = False

    # --- for the sink ---

    def start(self, wake: Callable[[], None]) -> None:
        """Begin to connect; ``wake`` is called when births were made."""
        self._wake = wake
        self._thread.start()

    def stop(self) -> None:
        """Death certificates and goodbye where there is a session; never waits for one."""
        if self._stopping.is_set() or self._thread.ident is None:
            return
        self._stopping.set()
        if self._trying is not None:
            self._trying.leave()
        with self._ready:
            self._ready.notify_all()
        self._thread.join(10.0)

    def session(self, timeout: float) -> Session:
        """The session that is up, waiting for one at most ``timeout`` seconds; then ``RetryError`` with the cause."""

        def usable() -> bool:
            return self._session is not None and not self._session.connection.ended.is_set()

        with self._ready:
            self._ready.wait_for(lambda: usable() or self._stopping.is_set(), timeout)
            if self._session is None or not usable():
                raise RetryError(self._cause)
            return self._session

    def denied(self, detail: str, *, data: bool = False) -> None:
        """The broker does not let us do what an edge node must (births, or data): somebody has to allow it."""
        self._data_denied, self._cause = data, detail
        if self._health.raise_problem("sparkplug_denied", detail):
            _LOG.error("sparkplug_denied: %s; results are kept and tried again", detail)

    def allowed(self) -> None:
        """Data came back."""
        self._data_denied = False
        self._health.over("sparkplug_denied")

    # --- the thread ---

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._one_session(next(self._brokers))
            except (RetryError, UsageError) as error:
                if isinstance(error, DeniedError):
                    self.denied(str(error))
                self._away(str(error))
            except Exception as error:  # noqa: BLE001  # a fault of ours must not end the thread: logged whole, tried again
                _LOG.exception("sparkplug_away: unexpected %r; connecting again", error)
                self._away(f"unexpected {error!r}")
            finally:
                self._set(None)
            if not self._stopping.is_set():
                self._stopping.wait(self._backoff.next_s())

    def _one_session(self, settings: Settings) -> None:
        """From connect to its end. ``RetryError`` with the cause unless we, or the primary host, wanted to go."""
        session = Session(settings, self._names, self._count.next(), self._host_id, self._memory, self._clock)
        self._trying = session
        try:
            session.open()
            self._tend(session)
        except RetryError:
            if not session.host_left and not self._stopping.is_set():
                raise
        finally:
            self._set(None)
            end = session.connection.end
            if end is None:
                session.farewell()
            session.connection.join()
        if end is not None and not session.host_left and not self._stopping.is_set():
            raise RetryError(f"broker {settings.address} {end.text}")

    def _tend(self, session: Session) -> None:
        """Births, again where they are due, until the connection ends, the host goes or we stop."""
        born = False
        began = self._clock.monotonic()
        while not self._stopping.is_set() and not session.connection.ended.is_set():
            session.wake.clear()
            now = self._clock.monotonic()
            if not born and session.host.online:
                session.birth()
                born = True
                self._born(session)
            elif born and not session.host.online:
                return
            elif born and session.birth_if_due():
                self._health.count("sparkplug_births")
            elif not born and now - began >= _HOST_GRACE_S:
                self._without_host(session)
            if born and now - began >= _GOOD_AFTER_S:
                self._backoff.over()
            session.wake.wait(_LOOK_S)

    def _born(self, session: Session) -> None:
        self._health.count("sparkplug_births")
        for problem in ("sparkplug_away", "sparkplug_host_offline"):
            self._health.over(problem, "births are made")
        if not self._data_denied:
            self.allowed()
        self._cause = "the session ended"
        self._set(session)
        self._wake()

    def _without_host(self, session: Session) -> None:
        self._health.over("sparkplug_away")
        address = session.connection.settings.address
        self._cause = f"primary host {self._host_id} is not online at broker {address}"
        if self._health.raise_problem("sparkplug_host_offline", self._cause):
            _LOG.warning("sparkplug_host_offline: %s; results are kept and delivered later", self._cause)

    def _away(self, cause: str) -> None:
        news = self._health.raise_problem("sparkplug_away", cause)
        if news or cause != self._cause:
            _LOG.warning("sparkplug_away: %s; results are kept and delivered later", cause)
        self._cause = cause

    def _set(self, session: Session | None) -> None:
        with self._ready:
            self._session = session
            self._ready.notify_all()
