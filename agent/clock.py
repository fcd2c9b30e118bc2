"""Time comes in from outside, so that tests can turn the hands.

Invariants: ``now`` is aware and in UTC; ``monotonic`` never goes back and is the only one used to measure spans.
"""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Protocol


class Clock(Protocol):
    """What the agent asks of time."""

    def now(self) -> datetime:
        """The wall clock, aware, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""
        ...


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
