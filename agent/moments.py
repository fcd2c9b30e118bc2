"""What people call a time: ``2h``, ``08:00``, ``yesterday``, or ISO 8601 with and without a zone."""

from __future__ import annotations

import re
from datetime import datetime, time, timedelta, timezone, tzinfo

from agent.errors import UsageError

_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(s|sec|m|min|h|d|w)")
_SECONDS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_TIME_OF_DAY = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?")
_FORMS = "use for example 2h, 30m, 3d, 08:00, today, yesterday, 2026-11-22 or 2026-11-22T08:00"


def parse(text: str, now: datetime, zone: tzinfo, key: str = "--since") -> datetime:
    """The moment that ``text`` means at ``now`` (aware); without a zone of its own it is in ``zone``. Aware, UTC.

    ``UsageError`` for what is no time; ``key`` is what its line names.
    """
    try:
        return _parse(text.strip(), now.astimezone(zone), zone).astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise UsageError(f"{key}: found {text!r}; {_FORMS}") from None


def _parse(text: str, now: datetime, zone: tzinfo) -> datetime:
    if span := _SPAN.fullmatch(text):
        return now.astimezone(timezone.utc) - timedelta(seconds=float(span[1]) * _SECONDS[span[2]])
    if text in ("today", "yesterday"):
        return _at(now, time(), zone, days_ago=int(text == "yesterday"))
    if clock := _TIME_OF_DAY.fullmatch(text):
        hour, minute, second = (int(part or 0) for part in clock.groups())
        wanted = time(hour, minute, second)
        today = _at(now, wanted, zone)
        return today if today <= now else _at(now, wanted, zone, days_ago=1)
    # Python 3.10 reads neither Z nor a fraction of other than 3 or 6 digits.
    text = re.sub(r"[zZ]$", "+00:00", text.replace("T", " ", 1))
    text = re.sub(r"\.(\d+)", lambda found: f".{found[1]:0<6.6}", text)
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=zone)


def _at(now: datetime, clock: time, zone: tzinfo, days_ago: int = 0) -> datetime:
    return datetime.combine(now.date() - timedelta(days=days_ago), clock, tzinfo=zone)
