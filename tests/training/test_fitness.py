"""A model of no use is called that, wherever it is shown."""

from __future__ import annotations

from typing import Any

import pytest

from training.fitness import unfit


def variant(overkill: float = 0.1, low: float | None = 0.8, value: float | None = 0.9) -> dict[str, Any]:
    return {
        "test": {"auc": {"value": value, "low": low}, "overkill_rate": {"value": 0.1}},
        "promised": {"overkill": {"value": overkill}},
    }


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (variant(), None),
        (variant(overkill=0.49, low=0.61), None),
        (variant(overkill=0.5), "not fit for a station: fp32 rejects 50% of good frames on validation"),
        (variant(low=0.6), "not fit for a station: fp32 AUC 0.900 may be as low as 0.600 (guessing: 0.5)"),
        (variant(low=None, value=0.55), "not fit for a station: fp32 AUC 0.550 may be as low as 0.550 (guessing: 0.5)"),
        (variant(low=None, value=None), None),
    ],
)
def test_what_makes_a_model_unfit(one: dict[str, Any], said: str | None) -> None:
    assert unfit({"fp32": one}) == said


def test_without_a_promise_the_measured_overkill_counts() -> None:
    one = variant() | {"promised": None}
    assert unfit({"fp32": one}) is None
    one["test"]["overkill_rate"]["value"] = 0.9
    assert "rejects 90% of good frames on the frames measured" in (unfit({"fp32": one}) or "")
