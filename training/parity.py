"""The gate between Keras and the station: what was trained must be what judges.

Invariant: the exported fp32 graph in the agent's session gives Keras's probabilities to 1e-4 on every frame tried,
or no bundle is made. What int8 changes is measured, not hidden: its deviation stands in the metrics, and it has a
threshold of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agent.errors import FatalError

LIMIT = 1e-4


def calibrated(margins: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Keras's defect probability, float64 [n] in 0…1, from the margins (defect minus no defect) and the temperature."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -margins / temperature)))


def deviation(expected: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    """The largest absolute difference; infinite where either is no number."""
    if not len(expected):
        return 0.0
    worst = float(np.max(np.abs(expected - found)))
    return worst if np.isfinite(worst) else float("inf")


def gate(expected: NDArray[np.float64], found: NDArray[np.float64], files: Sequence[str]) -> float:
    """The deviation, if it is within the limit. Raises FatalError naming the worst frame."""
    worst = deviation(expected, found)
    if worst > LIMIT:
        at = int(np.nanargmax(np.abs(expected - found))) if np.isfinite(worst) else 0
        raise FatalError(
            f"parity: {files[at]} gives {found[at]:.6f} in the agent's session and {expected[at]:.6f} in Keras, more "
            f"than {LIMIT:g} apart; the export is wrong, no bundle was made"
        )
    return worst
