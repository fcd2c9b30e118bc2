"""Which frames of a live stream are late: they waited in some buffer, and newer ones stand behind them.

A stream's own clock and ours run alike, so the difference between arrival and stream time is constant but for the time
spent waiting. The smallest difference seen is a frame that did not wait.
"""

from __future__ import annotations

LATE_S = 0.5  #: so long may a frame have waited
DRAIN_S = 2.0  #: what was buffered while connecting is passed over for so long at most
LEAK = 1e-3  #: seconds a second by which two clocks may drift apart (quartz: below 1e-4)


class Freshness:
    """Call it with each frame of one connection, in order."""

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None
        self._begin = self._least = 0.0
        self._draining = True
        self._late_since: float | None = None

    def __call__(self, at: float, stream_s: float) -> bool:
        """Whether a frame that arrived ``at`` (seconds) and is of ``stream_s`` on the stream's clock is fresh."""
        last, self._last = self._last, (at, stream_s)
        if last is None:
            self._begin = at
            return False  # only the time to the next one tells
        passed, played = at - last[0], stream_s - last[1]
        if played <= 0 or (self._draining and (passed >= played / 2 or at - self._begin > DRAIN_S)):
            self._draining, self._late_since = False, None
            self._least = at - stream_s
            return True
        if self._draining:
            return False  # it came faster than time goes by: it had been waiting
        lag = at - stream_s
        self._least = min(self._least + LEAK * passed, lag)
        if lag - self._least <= LATE_S:
            self._late_since = None
            return True
        if self._late_since is None:
            self._late_since = at
        if at - self._late_since > DRAIN_S:  # not a hiccup: the stream's clock was set
            self._least, self._late_since = lag, None
            return True
        return False
