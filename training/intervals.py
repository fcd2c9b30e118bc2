"""Rates and AUC with intervals that few recordings cannot make too narrow.

The bootstrap draws what was seen, and only that: five recordings without an escape give draws without an escape, and so
[0, 0]. They do not prove that there is none. Here

- a rate's interval reaches, at either end, at least as far as Wilson's for that rate in as many observations as there
  are recordings with such frames; where all draws are the same it is Wilson's;
- an AUC whose draws are all the same (every pair in order) has no interval: nothing seen tells how far it may fall, and
  frames of one recording are no pairs of their own. No binomial stands in, since an AUC is not a share of recordings;
- with fewer than two recordings of either kind of frame there is no interval.

That recordings are the observations is the worst case, frames of a recording being all alike (a design effect of the
recording's length; Kish, "Survey Sampling", 1965, section 5.4).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from agent.wilson import wilson
from training import statistics
from training.statistics import DRAWS, F64, Bools, Interval

FEW = "[too few recordings for an interval]"  #: where one would stand


@dataclass(frozen=True)
class Over:
    """Figures of frames with their intervals over `recordings` [n], the recording of each frame."""

    recordings: NDArray[np.generic]
    confidence: float = 0.95
    draws: int = DRAWS

    def rate(self, hit: Bools, among: Bools) -> Interval:
        """The share of `hit` among the frames `among`."""
        found = statistics.interval(
            lambda weights: statistics.rate(hit, among, weights),
            self.recordings,
            confidence=self.confidence,
            draws=self.draws,
        )
        holders = self._holders(among)
        if found.value is None or holders < 2:
            return replace(found, low=None, high=None)
        low, high = wilson(found.value, holders, self.confidence)
        if found.low is not None and found.high is not None:  # else every draw is the same
            low, high = min(found.low, low), max(found.high, high)
        return replace(found, low=low, high=high)

    def auc(self, defect: F64, bad: Bools) -> Interval:
        """The area under the ROC curve."""
        found = statistics.interval(
            lambda weights: statistics.auc(defect, bad, weights),
            self.recordings,
            confidence=self.confidence,
            draws=self.draws,
        )
        few = min(self._holders(bad), self._holders(~bad)) < 2
        return replace(found, low=None, high=None) if few else found

    def _holders(self, among: Bools) -> int:
        return len(np.unique(self.recordings[among]))
