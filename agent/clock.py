"""Time comes in from outside, so that tests can turn the hands.

Invariants: ``now`` is aware and in UTC; ``monotonic`` never goes back and is the only one used to measure spans.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Protocol


class Clock(Protocol):
    """What the agent asks of time."""

    def now(self) -> datetime:
        """The wall clock, aware, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""
        ...


#: What was made before then is older than so many days; None: nobody can tell just now.
Before = Callable[[float], datetime | None]


def days_ago(clock: Clock) -> Before:
    """``Before`` of a clock that is believed whatever it says."""
    return lambda days: clock.now() - timedelta(days=days)


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """The wall clock, aware, UTC."""
        return datetime.now(timezone.utc)

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""
        return time.monotonic()


class ManualClock:
    """A clock for tests: stands still until ``advance`` is called."""

    def __init__(self, start: datetime) -> None:
        self._now, self._monotonic = start, 0.0

    def now(self) -> datetime:
        """The time it was set to."""
        return self._now

    def monotonic(self) -> float:
        """Seconds advanced so far."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        from datetime import timedelta

        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds


def iso_utc(moment: datetime) -> str:
    """An aware time as the contract writes it: ``2026-11-22T10:22:05.123Z`` (UTC, milliseconds, cut not rounded)."""
    utc = moment.astimezone(timezone.utc)
    return f"{utc:%Y-%m-%dT%H:%M:%S}.{utc.microsecond // 1000:03d}Z"


def compact_utc(moment: datetime) -> str:
    """An aware time for a file name: ``20261122T102205123Z`` (UTC, milliseconds)."""
    utc = moment.astimezone(timezone.utc)
    return f"{utc:%Y%m%dT%H%M%S}{utc.microsecond // 1000:03d}Z"


def parse_iso(text: str) -> datetime:
    """Read what ``iso_utc`` wrote. ``ValueError`` for anything else."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)


def synchronised() -> bool | None:
    """Whether somebody (NTP, PTP) keeps this machine's clock right; None where that cannot be told.

    The kernel knows, whoever does it. A service with ``ProtectClock=`` may not ask it: there systemd does so for us.
    """
    told = kernels_word()
    return _systemds_word() if told is None else told


def kernels_word() -> bool | None:
    """What the kernel says (adjtimex(2): not STA_UNSYNC); None where it does not say, or not to us."""
    import ctypes

    class Timex(ctypes.Structure):
        """The beginning of ``struct timex``, and room for the rest of it."""

        _fields_ = (
            ("modes", ctypes.c_uint),
            *((name, ctypes.c_long) for name in ("offset", "freq", "maxerror", "esterror")),
            ("status", ctypes.c_int),
            ("rest", ctypes.c_char * 256),
        )

    timex = Timex()
    if ctypes.CDLL(None).adjtimex(ctypes.byref(timex)) < 0:
        return None
    return not timex.status & 0x40


def _systemds_word() -> bool | None:
    import subprocess

    command = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):  # no systemd here
        return None
    return {"yes": True, "no": False}.get(done.stdout.strip())
