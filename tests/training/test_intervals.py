"""Few recordings prove little, and no figure says otherwise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.bundle.showing import _with_interval
from agent.ports import Decision
from agent.wilson import wilson
from training import evaluate, report
from training.dataset import Frames
from training.intervals import Over
from training.recipe import Choice


def frames_of(recordings: int, each: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """(bad, recording) of recordings that are half good and half defective."""
    return np.tile([True, False], recordings * each // 2), np.repeat(np.arange(recordings), each)


@pytest.mark.parametrize("recordings", [2, 5, 10, 15, 60])
def test_no_escape_in_few_recordings_is_no_proof_of_none(recordings: int) -> None:
    bad, names = frames_of(recordings)
    escapes = Over(names).rate(np.zeros(len(bad), dtype=bool), bad)
    z = 1.959964
    assert (escapes.value, escapes.low) == (0.0, 0.0)
    assert escapes.high == pytest.approx(z**2 / (recordings + z**2), abs=1e-6)


def test_all_escaping_is_no_proof_that_all_will() -> None:
    bad, names = frames_of(5)
    escapes = Over(names).rate(bad, bad)
    assert (escapes.value, escapes.high) == (1.0, 1.0)
    assert escapes.low == pytest.approx(wilson(1.0, 5)[0])


def test_one_escape_is_not_promised_better_than_none() -> None:
    bad, names = frames_of(8)
    one = np.zeros(len(bad), dtype=bool)
    none = Over(names).rate(one.copy(), bad)
    one[0] = True
    assert Over(names).rate(one, bad).high >= none.high


def test_the_recordings_that_hold_such_frames_count_and_no_others() -> None:
    bad, names = frames_of(20)
    bad &= names < 4
    assert Over(names).rate(np.zeros(len(bad), dtype=bool), bad).high == pytest.approx(wilson(0.0, 4)[1])
    bad &= names < 1
    alone = Over(names).rate(np.zeros(len(bad), dtype=bool), bad)
    assert (alone.value, alone.low, alone.high) == (0.0, None, None)


@pytest.mark.parametrize(
    ("hits", "frames"),
    [
        ([20] + [0] * 7, [20] * 8),  # one recording of eight
        ([95, 1, 0, 0, 1, 0], [95, 1, 1, 1, 1, 1]),  # nearly all frames in one
        ([1, 1, 1], [20] * 3),  # the same in each
        ([2, 1, 1], [20] * 3),  # one more: no jump
    ],
)
def test_draws_that_differ_promise_no_more_than_draws_that_do_not(hits: list[int], frames: list[int]) -> None:
    names = np.repeat(np.arange(len(frames)), frames)
    hit = np.concatenate([np.arange(many) < some for some, many in zip(hits, frames, strict=True)])
    found = Over(names).rate(hit, np.ones(len(hit), dtype=bool))
    low, high = wilson(found.value, len(frames))
    assert found.low <= low
    assert found.high >= high


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 5)), min_size=1, max_size=60))
def test_a_rate_has_no_interval_or_one_as_wide_as_wilsons(rows: list[tuple[bool, bool, int]]) -> None:
    hit, among, names = (np.array(column) for column in zip(*rows, strict=True))
    found = Over(names, draws=100).rate(hit, among)
    holders = len(set(names[among]))
    assert (found.low is None) == (found.value is None or holders < 2)
    if found.low is not None:
        low, high = wilson(found.value, holders)
        assert 0 <= found.low <= low <= found.value <= high <= found.high <= 1
        assert found.high - found.low > 0.05


def test_an_auc_of_pairs_that_are_all_in_order_has_no_interval() -> None:
    bad, names = frames_of(5)
    found = Over(names).auc(np.where(bad, 0.9, 0.1), bad)
    assert (found.value, found.low, found.high) == (1.0, None, None)
    rng = np.random.default_rng(0)
    found = Over(names).auc(np.where(bad, 0.6, 0.4) + rng.normal(0, 0.3, len(bad)), bad)
    assert found.low < found.value < found.high


def test_an_auc_of_one_defective_recording_has_no_interval() -> None:
    bad, names = frames_of(6)
    bad &= names == 0
    rng = np.random.default_rng(0)
    found = Over(names).auc(rng.random(len(bad)), bad)
    assert found.value is not None
    assert (found.low, found.high) == (None, None)


def test_the_figures_that_people_read_say_so() -> None:
    bad, names = frames_of(5)
    facts = [str(name) for name in names]
    gray, kinds = np.zeros((len(bad), 1, 1), np.uint8), bad.astype(int)
    frames = Frames(gray, kinds, kinds, np.array(facts), facts, facts)
    decision = Decision(("no defect", "defect"), (0,), 0.5)
    test = evaluate.measure(np.where(bad, 0.9, 0.1), frames, ["good weld", "crack"], decision, Choice(draws=100))
    (line,) = report.lines({"synthetic": False, "split": "recording", "variants": {"fp32": {"test": test}}})
    assert "AUC 1.000 [too few recordings for an interval], escapes 0.0% [0.0%, 43.4%]" in line
    assert "overkill 0.0% [0.0%, 43.4%]" in line
    assert test["per_class"]["crack"]["auc"]["low"] is None
    assert _with_interval(test["auc"]) == "1.000  [too few recordings for an interval]"
    assert _with_interval({"value": 1.0, "low": 1.0, "high": 1.0}) == "1.000  [too few recordings for an interval]"
    assert _with_interval(test["escape_rate"]) == "0.000  [0.000 … 0.434]"
