"""How long to wait before the next try: a little at first, twice as long each time, never the same for two stations."""

from __future__ import annotations

import random


class Backoff:
    """Pauses from ``shortest_s`` to ``longest_s``, with jitter down to a quarter; ``never_shorter`` than the shortest.

    For one thread. ``failures`` counts the pauses since the last success.
    """

    def __init__(self, shortest_s: float, longest_s: float, *, never_shorter: bool = False) -> None:
        self._shortest_s, self._longest_s, self._never_shorter = shortest_s, longest_s, never_shorter
        self.failures = 0

    def next_s(self) -> float:
        """It failed once more: wait so long."""
        pause = min(self._longest_s, self._shortest_s * 2 ** min(self.failures, 16))
        self.failures += 1
        least = self._shortest_s if self._never_shorter else pause / 4
        return random.uniform(least, pause)  # noqa: S311  # spreads retries, hides nothing

    def over(self) -> None:
        """It works again: the next pause is the shortest."""
        self.failures = 0
