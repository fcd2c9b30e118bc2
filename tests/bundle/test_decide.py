from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.bundle.postprocess import decide
from agent.ports import Decision

LABELS = ("no defect", "defect")


@pytest.mark.parametrize(
    ("probability", "threshold", "label", "evaluation"),
    [
        ([0.9, 0.1], 0.5, "no defect", "OK"),
        ([0.1, 0.9], 0.5, "defect", "NotOK"),
        ([0.55, 0.45], 0.42, "no defect", "NotOK"),
        ([0.45, 0.55], 0.6, "defect", "OK"),
        ([0.5, 0.5], 0.5, "no defect", "NotOK"),
    ],
)
def test_the_verdict_follows_the_threshold_and_the_class_the_largest_probability(
    probability: list[float], threshold: float, label: str, evaluation: str
) -> None:
    found = decide(probability, Decision(LABELS, (0,), threshold))
    assert found[:2] == (label, evaluation)
    assert (found[2][0].code, found[2][0].limit) == ("defect_probability", threshold)


def test_the_review_band_is_for_people() -> None:
    decision = Decision(LABELS, (0,), 0.5, (0.3, 0.5))
    verdicts = [decide([1 - p, p], decision)[1] for p in (0.29, 0.3, 0.49, 0.5)]
    assert verdicts == ["OK", "NotDecidable", "NotDecidable", "NotOK"]
    assert decide([0.6, 0.4], decision)[2][0].code == "review_band"


def test_several_kinds_of_defect_add_up() -> None:
    decision = Decision(("good", "hole", "crack"), (0,), 0.5)
    assert decide([0.4, 0.3, 0.3], decision)[:2] == ("good", "NotOK")


@pytest.mark.parametrize("broken", [
    [math.nan, 0.5], [math.inf, 0.0], [0.5, 0.6], [1.0], [0.2, 0.3, 0.5], [], [-0.5, 1.5], [0.0, 0.0],
])  # fmt: skip
def test_what_is_no_probability_is_not_decidable(broken: list[float]) -> None:
    label, evaluation, reasons = decide(broken, Decision(LABELS, (0,), 0.5))
    assert (label, evaluation, reasons[0].code) == (None, "NotDecidable", "model_output_invalid")


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_higher_defect_probability_never_looks_better(one: float, other: float) -> None:
    decision = Decision(LABELS, (0,), 0.5, (0.3, 0.5))
    rank = {"OK": 0, "NotDecidable": 1, "NotOK": 2}
    low, high = sorted((one, other))
    assert rank[decide([1 - low, low], decision)[1]] <= rank[decide([1 - high, high], decision)[1]]
