"""What the housekeeping of an archive has to ask the ledger and the clock."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from functools import partial

from agent.clock import Before, Clock, iso_utc
from agent.ledger import Ledger
from agent.sources.archive import Known
from agent.sources.camera.store import Interesting

_APART = timedelta(days=1)  #: how far the clock of an archive on a share may be from ours, time zones included
_EVER = datetime.min.replace(tzinfo=timezone.utc)


def known_to(ledger: Ledger, clock: Clock, interesting: Interesting, before: Before) -> Known:
    """The answers of this ledger. ``before``: what is so many days old."""
    return Known(partial(open_since, ledger, clock), interesting, before)


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
