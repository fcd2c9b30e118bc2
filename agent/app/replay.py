"""The command ``replay``: a span of time again, to the broker. ``weldwatch outbox replay`` asks for the same."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import tzinfo
from typing import Any

from agent import moments
from agent.app.commands import Order, Outcome, RefusedError, Wishes
from agent.clock import Clock, iso_utc
from agent.delivery.replays import Replays
from agent.ledger import Ledger


class Replay(Wishes, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Times as for ``weldwatch outbox replay``; without ``until`` up to now."""

    since: str
    until: str | None = None


@dataclass(frozen=True)
class ReplayOrder:
    """Writes the wish down and answers at once; the shipper sends, a few at a time."""

    replays: Replays
    ledger: Ledger
    zone: tzinfo
    clock: Clock

    def orders(self) -> dict[str, Order[Any]]:
        """The command by its name."""
        return {"replay": Order(Replay, self._ask)}

    def _ask(self, wishes: Replay) -> Outcome:
        now = self.clock.now()
        since = moments.parse(wishes.since, now, self.zone, "since")
        until = now if wishes.until is None else moments.parse(wishes.until, now, self.zone, "until")
        _first, _last, count = self.ledger.span(iso_utc(since), iso_utc(until))
        if not count:
            raise RefusedError(f"the ledger has no result made from {iso_utc(since)} to {iso_utc(until)}")
        return {"replay": self.replays.ask("mqtt", since, until, now), "results": count}
