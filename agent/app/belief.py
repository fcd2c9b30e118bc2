"""Whether the wall clock may be believed for what nobody can undo: removing by age.

    state/clock.json   {"seen": the last time that was believed, "doubted": one that is not (yet), "ran_s": how long}

A PC whose battery is flat boots in any year. Removing by age would take the whole history with it, within the second.

Invariants
- A clock that is further from where it was last seen than running time explains, and than ``slack``, is not believed:
  until a time service keeps it, or until it has gone on like that, without another jump, for 24 h of running time.
- Only a time that is believed becomes the one that the next start compares with.
- Nothing to compare with (a new station) is no problem and no reason to remove anything either.
- While it is not believed nothing is removed by age. Removing for space does not ask the time, and goes on.
- ``before`` is asked in the instant of removing, by any thread: a leap since the last look is seen there, and what was
  made while the clock was behind is not old because it was set right.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from agent.clock import Clock, iso_utc, parse_iso, synchronised
from agent.delivery.file_names import write_temporary
from agent.health import Health
from agent.logs import log

FILE = "clock.json"
BELIEVED_AFTER_S = 86_400.0
_WRITTEN_EVERY_S = 600.0
_STANDS_STILL = timedelta(minutes=10)  #: a doubted clock may be set back so far: what is written lags behind
_log = log("app")


class _Seen(msgspec.Struct):
    """What is kept between two runs."""

    seen: str | None = None
    doubted: str | None = None
    ran_s: float = 0.0


def slack_of(keep_days: int) -> timedelta:
    """The absence that needs no explanation: a tenth of ``keep_days``, from a day to a week."""
    return timedelta(days=max(1.0, min(7.0, keep_days / 10)))


class Belief:
    """``look`` from one thread; ``before`` may be asked by any."""

    def __init__(
        self,
        state: Path,
        slack: timedelta,
        clock: Clock,
        health: Health,
        newest: str | None,
        kept: Callable[[], bool | None] = synchronised,
    ) -> None:
        """``newest``: when the newest result was made (as ``iso_utc`` writes it), for a station that has no file yet.

        ``kept()``: whether a time service keeps the clock.
        """
        self.holds = False  #: by the last ``look``
        self._path, self._slack, self._clock, self._health, self._kept = state / FILE, slack, clock, health, kept
        before = _read(self._path)
        self._seen, self._doubted, self._ran_s = (
            _time(before.seen) or _time(newest),
            _time(before.doubted),
            before.ran_s,
        )
        self._looked_at = clock.monotonic()
        self._began = self._last = clock.now(), self._looked_at
        self._write_at = float("-inf")

    def look(self) -> bool:
        """Compare once; whether the clock may be believed. Tells health and log of a change."""
        now, at = self._clock.now(), self._clock.monotonic()
        ran, self._looked_at = at - self._looked_at, at
        if self._seen is not None:
            self._seen += timedelta(seconds=ran)
        near = self._seen is not None and abs(now - self._seen) <= self._slack
        self.holds, self._last = near or bool(self._kept()) or self._goes_on(now, ran), (now, at)
        if self.holds:
            self._seen, self._doubted, self._ran_s = now, None, 0.0
        self._tell(now)
        self._write(at)
        return self.holds

    def before(self, days: float) -> datetime | None:
        """What was made before then is older than ``days``; None: nobody can tell just now."""
        now, at = self._clock.now(), self._clock.monotonic()
        (seen, seen_at), (began, began_at) = self._last, self._began
        if not self.holds or abs(now - seen - timedelta(seconds=at - seen_at)) > self._slack:
            return None
        age = timedelta(days=days)
        # As long as this run is younger than that, nothing made in it is older, whatever its time says.
        return min(now - age, began) if timedelta(seconds=at - began_at) < age else now - age

    def _goes_on(self, now: datetime, ran: float) -> bool:
        """Whether a clock that is not believed has gone on for long enough without a jump."""
        if self._doubted is not None and -_STANDS_STILL <= now - self._doubted - timedelta(seconds=ran) <= self._slack:
            self._ran_s += ran
        else:
            self._ran_s = 0.0
        self._doubted = now
        return self._ran_s >= BELIEVED_AFTER_S

    def _tell(self, now: datetime) -> None:
        if self.holds:
            self._health.over("clock_doubted", f"it is {iso_utc(now)}; results are removed by age again")
        elif self._seen is not None:
            detail = (
                f"the clock says {iso_utc(now)}, and should say about {iso_utc(self._seen)}; nothing is removed by age "
                "until a time service keeps it, or it has gone on for 24 h"
            )
            if self._health.raise_problem("clock_doubted", detail):
                _log.warning("clock_doubted: %s; set it right, with NTP if there is a server", detail)

    def _write(self, at: float) -> None:
        """Every ten minutes, whole or not at all."""
        if at < self._write_at:
            return
        self._write_at = at + _WRITTEN_EVERY_S
        body = msgspec.json.encode(_Seen(_text(self._seen), _text(self._doubted), self._ran_s))
        temporary = self._path.with_name(f".{FILE}.tmp")
        try:
            write_temporary(temporary, body + b"\n")
            temporary.replace(self._path)
        except OSError as error:  # a full disk: the next start compares with an earlier time, and removes nothing more
            _log.debug("%s not written: %s", self._path, error)


def _read(path: Path) -> _Seen:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Seen)
    except (OSError, msgspec.DecodeError):  # none yet, or cut: compared with the newest result instead
        return _Seen()


def _time(text: str | None) -> datetime | None:
    try:
        return parse_iso(text) if text is not None else None
    except ValueError:
        return None


def _text(moment: datetime | None) -> str | None:
    return iso_utc(moment) if moment is not None else None
