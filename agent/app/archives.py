"""What the housekeeping of an archive has to ask the ledger and the clock."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import partial

from agent.clock import Clock, iso_utc
from agent.ledger import Ledger
from agent.sources.archive import Known
from agent.sources.camera.store import Interesting

_APART = timedelta(minutes=1)  #: how far the clock of an archive on a share may be from ours
_EVER = datetime.min.replace(tzinfo=timezone.utc)


def known_to(ledger: Ledger, clock: Clock, interesting: Interesting, believed: Callable[[], bool]) -> Known:
    """The answers of this ledger. ``believed``: whether the clock tells the time."""
    return Known(partial(open_since, ledger, clock), interesting, believed)


def open_since(ledger: Ledger, clock: Clock) -> datetime | None:
    """Images archived before then have results that every sink is done with; None: all have.

    An image is archived after its result was made, so the time of the first result that is not delivered tells; unless
    the clock was set back since: then nobody can tell, and all may be open.
    """
    oldest = ledger.oldest_undelivered_anywhere()
    if oldest is None:
        return None
    _first, last, _count = ledger.span("", iso_utc(oldest))
    if oldest > clock.now() or last > ledger.delivered_up_to():
        return _EVER
    return oldest - _APART
