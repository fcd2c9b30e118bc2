"""From probabilities to the station's verdict.

Invariant: the verdict follows the calibrated threshold, not the largest probability, so that it may differ from the
class; what is not a probability is never good.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from agent.ports import Decision
from agent.result import Evaluation, Reason


def decide(probability: Sequence[float], decision: Decision) -> tuple[str | None, Evaluation, list[Reason]]:
    """Class (label of the largest probability), evaluation, and why.

    ``probability`` has one value a label, each in 0…1, summing to 1 within 1e-3; anything else is NotDecidable with the
    reason ``model_output_invalid``. The defect probability is the sum over the labels that are not good.
    """
    if (
        len(probability) != len(decision.labels)
        or not all(math.isfinite(p) and -1e-6 <= p <= 1 + 1e-6 for p in probability)
        or abs(math.fsum(probability) - 1) > 1e-3
    ):
        return None, "NotDecidable", [Reason("model_output_invalid")]
    label = decision.labels[max(range(len(probability)), key=probability.__getitem__)]
    defect = math.fsum(p for index, p in enumerate(probability) if index not in decision.good)
    if decision.review is not None and decision.review[0] <= defect < decision.review[1]:
        return label, "NotDecidable", [Reason("review_band", defect, decision.review[1])]
    evaluation: Evaluation = "NotOK" if defect >= decision.threshold else "OK"
    return label, evaluation, [Reason("defect_probability", defect, decision.threshold)]
