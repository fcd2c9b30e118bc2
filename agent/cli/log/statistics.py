"""Many results as a few numbers: how many of what, why not, how fast."""

from __future__ import annotations

from array import array
from collections import Counter
from datetime import datetime, timedelta, tzinfo
from typing import Any

from agent.cli import tables
from agent.cli.log.telling import decode
from agent.clock import parse_iso

EVALUATIONS = ("OK", "NotOK", "NotDecidable")
_HOURS_SHOWN = 24


class Statistics:
    """``add`` lines of daily logs in any order."""

    def __init__(self, zone: tzinfo) -> None:
        self.zone = zone
        self.evaluations: Counter[str] = Counter()
        self.hours: dict[str, Counter[str]] = {}  #: "2026-11-22T10" (UTC) → evaluations
        self.reasons: Counter[str] = Counter()  #: of NotDecidable
        self.models: Counter[str] = Counter()
        self.not_results = 0
        self.first = self.last = ""
        self._spent = array("f")

    def add(self, line: bytes) -> None:
        """Count one result."""
        shown = decode(line)
        if shown is None:
            self.not_results += 1
            return
        self.evaluations[shown.evaluation] += 1
        self.hours.setdefault(shown.created_at[:13], Counter())[shown.evaluation] += 1
        if shown.evaluation == "NotDecidable":
            self.reasons[shown.reasons[0].code if shown.reasons else "unknown"] += 1
        self.models[f"{shown.model.name} {shown.model.version}"] += 1
        if not self.first or shown.created_at < self.first:
            self.first = shown.created_at
        self.last = max(self.last, shown.created_at)
        self._spent.append(shown.timing_ms.total)

    @property
    def count(self) -> int:
        """Results."""
        return self.evaluations.total() if hasattr(self.evaluations, "total") else sum(self.evaluations.values())

    def rate(self) -> float | None:
        """Results a second from the first to the last; None for fewer than two."""
        if self.count < 2 or self.first == self.last:
            return None
        span = parse_iso(self.last) - parse_iso(self.first)
        return (self.count - 1) / span.total_seconds()

    def spent_ms(self) -> dict[str, float | None]:
        """Milliseconds from file to verdict."""
        ordered = sorted(self._spent)
        points = {"p50": 0.5, "p99": 0.99, "max": 1.0}
        last = len(ordered) - 1
        return {
            name: round(ordered[min(last, int(part * len(ordered)))], 3) if ordered else None
            for name, part in points.items()
        }

    def as_json(self) -> dict[str, Any]:
        """For machines; times in UTC."""
        return {
            "results": self.count,
            **{name: self.evaluations[name] for name in EVALUATIONS},
            "first": self.first or None,
            "last": self.last or None,
            "per_second": None if (rate := self.rate()) is None else round(rate, 4),
            "timing_ms": self.spent_ms(),
            "not_decidable": dict(self.reasons.most_common()),
            "models": dict(self.models.most_common()),
            "hours": [
                {"hour": f"{hour}:00:00.000Z", **{name: counts[name] for name in EVALUATIONS}}
                for hour, counts in sorted(self.hours.items())
            ],
            "not_results": self.not_results,
        }

    def local_hours(self) -> list[tuple[str, Counter[str]]]:
        """The last hours that had results, as the station's clock calls them."""
        return [
            (f"{parse_iso(f'{hour}:00:00.000Z').astimezone(self.zone):%Y-%m-%d %H:%M}", counts)
            for hour, counts in sorted(self.hours.items())[-_HOURS_SHOWN:]
        ]


def show(statistics: Statistics) -> None:
    """For people."""
    out = tables.console()
    if not statistics.count:
        out.print("no result matches")
        return
    out.print(_head(statistics))
    out.print()
    rows = [
        (name, str(statistics.evaluations[name]), f"{statistics.evaluations[name] / statistics.count:.1%}")
        for name in EVALUATIONS
    ]
    tables.show(("evaluation", "results", "share"), rows, right=(1, 2))
    for title, counter in (("NotDecidable because", statistics.reasons), ("judged by", statistics.models)):
        if counter:
            out.print()
            tables.show((title, "results"), [(name, str(n)) for name, n in counter.most_common()], right=(1,))
    out.print()
    hours = [
        (hour, *(str(counts[name]) for name in EVALUATIONS), f"{sum(counts.values()) / 3600:.2f}")
        for hour, counts in statistics.local_hours()
    ]
    tables.show(("hour", *EVALUATIONS, "a second"), hours, right=range(1, 5))
    if statistics.not_results:
        out.print(f"\n{statistics.not_results} lines are no results and were passed over")


def _head(statistics: Statistics) -> str:
    span = parse_iso(statistics.last) - parse_iso(statistics.first)
    rate, spent = statistics.rate(), statistics.spent_ms()
    speed = "" if rate is None else f", {rate:.2f} a second"
    return (
        f"{statistics.count} results from {_local(statistics.first, statistics.zone)} to "
        f"{_local(statistics.last, statistics.zone)} ({span - timedelta(microseconds=span.microseconds)}){speed}\n"
        f"from file to verdict: {spent['p50']:.1f} ms p50, {spent['p99']:.1f} ms p99, {spent['max']:.1f} ms at most"
    )


def _local(created_at: str, zone: tzinfo) -> str:
    moment: datetime = parse_iso(created_at).astimezone(zone)
    return f"{moment:%Y-%m-%d %H:%M:%S}"
