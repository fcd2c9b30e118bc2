"""Wilson's score interval: how far a share that was seen in few may be off.

Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927) 209-212; of the usual
ones it is the one to use where observations are few: Brown, Cai, DasGupta, "Interval estimation for a binomial
proportion", Statistical Science 16 (2001) 101-133.
"""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist


def wilson(share: float, observations: int, confidence: float = 0.95) -> tuple[float, float]:
    """Low and high end, each in 0…1, of a share 0…1 of so many observations (at least 1); they hold the share."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    weight = z * z / observations
    middle = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * sqrt(share * (1 - share) / observations + weight / (4 * observations))
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))  # rounding must not part it from it
