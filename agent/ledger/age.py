"""How old results are, whatever the wall clock said when they were made.

Invariants: a station without a clock of its own begins in 1970 and is put right by NTP; what it judged until then looks
old and is not. So what this process has committed counts as old only by the monotonic clock.
"""

from __future__ import annotations

from collections import deque
from datetime import datetime

from agent.clock import Clock


class Ages:
    """``last_sequence``: the newest result when the ledger was opened; up to it, the times written are believed."""

    def __init__(self, clock: Clock, last_sequence: int) -> None:
        self._clock = clock
        #: (monotonic, the newest result by then), one a call that found new results.
        self._marks = deque([(float("-inf"), last_sequence)])

    def old_up_to(self, keep_from: datetime, last_sequence: int) -> int:
        """The highest sequence that was surely committed as long ago as ``keep_from`` is, or before this process."""
        now = self._clock.monotonic()
        span_s = (self._clock.now() - keep_from).total_seconds()
        if last_sequence > self._marks[-1][1]:
            self._marks.append((now, last_sequence))
        while len(self._marks) > 1 and now - self._marks[1][0] >= span_s:
            self._marks.popleft()
        return self._marks[0][1]
