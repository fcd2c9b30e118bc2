"""The first frames after a swap, against those before it: does the new bundle do harm?"""

from __future__ import annotations

from collections.abc import Mapping

from agent.health import Health
from agent.model.loading import Loaded

FRAMES = 50  #: judged after a swap before it is taken for good
#: counter, the rise of its share that undoes a swap, the share before where nothing was judged, and its words.
#: Frames that a model fails on are a fault; those that it is unsure of may be the parts', so without a share to compare
#: with they undo nothing.
_HARM = (
    ("judged_failed", 0.1, 0.0, "failed in the model"),
    ("judged_undecided", 0.3, 1.0, "were not decidable"),
)


def shares(health: Health) -> dict[str, float]:
    """Of the frames judged so far, which were bad; nothing where none was judged."""
    counters = health.counters()
    judged = counters.get("judged", 0)
    return {what: counters.get(what, 0) / judged for what, *_ in _HARM} if judged else {}


class Trial:
    """Made at the swap. ``verdict`` is asked now and then."""

    def __init__(self, before: Loaded, health: Health, usual: Mapping[str, float] | None = None) -> None:
        """``usual``: the shares before the swap, where an earlier process saw them."""
        self.before, self._health = before, health
        self._then = health.counters()
        self.usual = {what: (usual or shares(health)).get(what, unknown) for what, _, unknown, _ in _HARM}

    def judged(self) -> int:
        """Frames since it began."""
        return self._health.counters().get("judged", 0) - self._then.get("judged", 0)

    def verdict(self) -> str | None:
        """None: not enough frames yet; "kept"; or in words why the swap is undone.

        A swap is undone as soon as no run of good frames could make up for the bad ones any more.
        """
        now, judged = self._health.counters(), self.judged()
        for what, rise, _, words in _HARM:
            bad = now.get(what, 0) - self._then.get(what, 0)
            if bad and bad >= (self.usual[what] + rise) * max(judged, FRAMES):
                return f"{bad} of the first {judged} frames {words}, {self.usual[what]:.0%} before"
        return "kept" if judged >= FRAMES else None
