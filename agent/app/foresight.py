"""What would stop the station one day, seen in time: certificates that end, a clock that nobody keeps right.

Invariants
- Looking changes nothing and holds up nobody: it has a thread of its own, and looks four times an hour (at far ends
  once a day, by a handshake; at each look while what is remembered of one is due, as it may have been renewed since).
- A certificate is a problem from 21 days before its end, or in the last third of its life if that is shorter: who has
  a new one made each week by a machine is not woken.
- What cannot be told (a file that is away, a far end that does not answer) is no problem here: deliveries tell it.
"""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from agent.clock import Clock, iso_utc, synchronised
from agent.config import AgentConfig
from agent.errors import UsageError
from agent.health import Health
from agent.logs import log

if TYPE_CHECKING:
    from agent.delivery.certificates import FarEnd, Validity

BEFORE = timedelta(days=21)
_FIRST_S = 2.0  #: the first images of a start come before
_LOOK_S = 900.0
_FAR_S = 86_400.0
_UNKEPT = 2  #: looks in a row: a machine that has just been started needs some minutes
_log = log("app")


class Foresight:
    """``start`` once, ``stop`` once; or call ``look`` yourself."""

    def __init__(self, config: AgentConfig, health: Health, clock: Clock) -> None:
        self._config, self._health, self._clock = config, health, clock
        self._found: dict[str, Validity] = {}
        self._far_at: dict[str, float] = {}  #: key of a far end → when it is asked again
        self._unkept = 0
        self._synchronised: bool | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="foresight", daemon=True)

    def start(self) -> None:
        """Begin, in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more. Without ``start`` it does nothing. A handshake under way is not waited for."""
        self._stop.set()

    @property
    def clock_synchronized(self) -> bool | None:
        """As it was at the last look; None where it cannot be told."""
        return self._synchronised

    def certificates(self) -> dict[str, str]:
        """Key of the configuration → when the certificate that it leads to ends (ISO 8601, UTC)."""
        return {key: iso_utc(one.ends) for key, one in dict(self._found).items()}

    def look(self) -> None:
        """One round."""
        from agent.delivery.certificates import far_ends, files, of_file

        self._look_at_clock()
        found = dict(self._found)
        for key, path in files(self._config).items():
            try:
                found[key] = of_file(path, key, self._clock.now())
            except UsageError:
                found.pop(key, None)
                for problem in ("certificate_ended", "certificate_ends"):
                    self._health.over(f"{problem}:{key}", "its file cannot be read any more")
        for one in far_ends(self._config):
            if (shown := self._ask(one)) is not None:
                found[one.key] = shown
        self._found = found
        for key, validity in found.items():
            self._judge(key, validity)

    def _ask(self, one: FarEnd) -> Validity | None:
        from agent.delivery.certificates import served

        now = self._clock.monotonic()
        known = self._found.get(one.key)
        remembered = known is not None and not self._due(known)
        if self._stop.is_set() or (remembered and now < self._far_at.get(one.key, now)):
            return None
        if (shown := served(one)) is not None:
            self._far_at[one.key] = now + _FAR_S
        return shown

    def _due(self, validity: Validity) -> bool:
        return validity.ends - self._clock.now() < min(BEFORE, (validity.ends - validity.begins) / 3)

    def _judge(self, key: str, validity: Validity) -> None:
        now = self._clock.now()
        ended, soon = f"certificate_ended:{key}", f"certificate_ends:{key}"
        if now >= validity.ends:
            self._health.clear_problem(soon)
            detail = f"{key}: the certificate ended on {_day(validity.ends)}"
            if self._health.raise_problem(ended, detail):
                _log.error("certificate_ended:%s: on %s; give a new one", key, _day(validity.ends))
            return
        self._health.over(ended)
        if self._due(validity):
            detail = f"{key}: the certificate ends on {_day(validity.ends)}"
            if self._health.raise_problem(soon, detail):
                _log.warning("certificate_ends:%s: on %s; have a new one made until then", key, _day(validity.ends))
        else:
            self._health.over(soon)

    def _look_at_clock(self) -> None:
        self._synchronised = synchronised()
        self._unkept = self._unkept + 1 if self._synchronised is False else 0
        if not self._unkept:
            self._health.over("clock_unsynchronized")
        elif self._unkept >= _UNKEPT:
            detail = "no time server keeps the clock right; times of results drift, and certificates are judged by it"
            if self._health.raise_problem("clock_unsynchronized", detail):
                _log.warning("clock_unsynchronized: %s", detail)

    def _run(self) -> None:
        wait_s = _FIRST_S
        while not self._stop.wait(wait_s):
            wait_s = _LOOK_S
            try:
                self.look()
            except Exception:  # noqa: BLE001  # the thread's last line: logged whole, tried again
                _log.exception("foresight_fault: unexpected; looking again in %g s", _LOOK_S)


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"
