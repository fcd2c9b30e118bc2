"""Whether a model may be thought of for a station at all.

Invariant: this refuses nothing and chooses nothing. It says aloud, wherever the bundle is shown, what its own figures
say already: that it rejects every second good weld, or cannot be told from guessing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOST_OVERKILL = 0.5  #: share of good frames rejected from which nobody would keep the station running
LEAST_AUC = 0.6  #: a lower bound at or below it is hardly above guessing (0.5)
_START = "not fit for a station"


def unfit(variants: Mapping[str, Any]) -> str | None:
    """One line that says why the model must not be used, or None. `variants` are the `variants` of metrics.json."""
    reasons = [reason for name, one in variants.items() for reason in _reasons(name, one)]
    return f"{_START}: {'; '.join(reasons)}" if reasons else None


def _reasons(name: str, one: Mapping[str, Any]) -> list[str]:
    reasons = []
    for part, where in ((one.get("promised"), "on validation"), (one["test"], "on the frames measured")):
        overkill = ((part or {}).get("overkill") or (part or {}).get("overkill_rate") or {}).get("value")
        if overkill is not None and overkill >= MOST_OVERKILL:
            reasons.append(f"{name} rejects {overkill:.0%} of good frames {where}")
            break
    area = one["test"]["auc"]
    least = area["value"] if area["low"] is None else area["low"]
    if least is not None and least <= LEAST_AUC:
        reasons.append(f"{name} AUC {area['value']:.3f} may be as low as {least:.3f} (guessing: 0.5)")
    return reasons
