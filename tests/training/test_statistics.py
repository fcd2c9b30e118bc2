from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from training import statistics
from training.statistics import (
    auc,
    choose_threshold,
    ece,
    fit_temperature,
    fit_temperature_and_shift,
    interval,
    operating_threshold,
    rate,
)

SCORES = st.lists(st.tuples(st.integers(0, 20), st.booleans(), st.integers(0, 5)), min_size=4, max_size=60)


def _arrays(rows: list[tuple[int, bool, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scores = np.array([one / 20 for one, _, _ in rows])
    bad, recordings = np.array([bad for _, bad, _ in rows]), np.array([f"r{group}" for _, _, group in rows])
    assume(bad.any() and not bad.all())
    return scores, bad, recordings


@given(SCORES)
def test_auc_is_the_share_of_pairs_in_the_right_order(rows: list[tuple[int, bool, int]]) -> None:
    scores, bad, _ = _arrays(rows)
    pairs = [(d > g) + (d == g) / 2 for d in scores[bad] for g in scores[~bad]]
    assert auc(scores, bad)[0] == pytest.approx(np.mean(pairs))


@given(SCORES, st.lists(st.integers(0, 3), min_size=60, max_size=60))
def test_a_weight_is_a_frame_seen_that_often(rows: list[tuple[int, bool, int]], times: list[int]) -> None:
    scores, bad, _ = _arrays(rows)
    weights = np.array(times[: len(bad)], dtype=float)
    again = np.repeat(np.arange(len(bad)), weights.astype(int))
    assume(bad[again].any() and not bad[again].all())
    assert auc(scores, bad, weights)[0] == pytest.approx(auc(scores[again], bad[again])[0])
    assert rate(scores < 0.5, bad, weights)[0] == pytest.approx(rate(scores[again] < 0.5, bad[again])[0])


def test_auc_without_one_of_the_classes_is_unknown() -> None:
    assert np.isnan(auc(np.array([0.1, 0.9]), np.array([True, True]))[0])
    assert interval(lambda w: auc(np.array([0.1]), np.array([True]), w), np.array(["r"])).value is None


@given(SCORES, st.floats(0, 0.5), st.floats(0, 0.5))
def test_the_threshold_keeps_the_escape_rate_and_accepts_no_escape_for_nothing(
    rows: list[tuple[int, bool, int]], escapes: float, overkill: float
) -> None:
    scores, bad, _ = _arrays(rows)
    threshold = operating_threshold(scores, bad, escapes, overkill)[0]
    passed, rejected = np.mean(scores[bad] < threshold), np.mean(scores[~bad] >= threshold)
    assert passed <= escapes + 1e-9
    for lower in np.unique(scores[scores < threshold]):
        fewer = np.mean(scores[bad] < lower) < passed
        assert not fewer or np.mean(scores[~bad] >= lower) > rejected


@given(SCORES, st.floats(0, 0.5), st.floats(0, 0.5))
def test_no_threshold_with_fewer_escapes_would_cost_less_overkill(
    rows: list[tuple[int, bool, int]], escapes: float, overkill: float
) -> None:
    scores, bad, _ = _arrays(rows)
    threshold = operating_threshold(scores, bad, escapes, overkill)[0]
    rejected = np.mean(scores[~bad] >= threshold)
    kept = [at for at in np.append(np.unique(scores), 1.1) if np.mean(scores[bad] < at) <= escapes + 1e-9]
    assert rejected <= max(min(np.mean(scores[~bad] >= at) for at in kept), overkill) + 1e-9


def test_where_the_classes_are_apart_the_threshold_lies_between_them() -> None:
    scores, bad = np.array([0.01, 0.02, 0.98, 0.99, 0.97]), np.array([False, False, True, True, True])
    for escapes, overkill in ((0.0, 0.0), (0.4, 0.0), (0.4, 0.5)):
        assert operating_threshold(scores, bad, escapes, overkill)[0] == pytest.approx(0.45, abs=0.15)


def test_few_recordings_without_an_escape_promise_little() -> None:
    bad, names = np.tile([True, False], 20), np.repeat(np.arange(4), 10)
    promise = choose_threshold(np.where(bad, 0.9, 0.1), bad, names, 0.02, draws=100).escapes
    assert (promise.value, promise.low) == (0.0, 0.0)
    assert promise.high == pytest.approx(1 - 0.025 ** (1 / 4))


@given(SCORES)
def test_an_interval_holds_its_value_and_repeats(rows: list[tuple[int, bool, int]]) -> None:
    scores, bad, recordings = _arrays(rows)
    one, again = (interval(lambda w: auc(scores, bad, w), recordings, draws=100) for _ in range(2))
    assert one == again
    assert one.recordings == len(set(recordings))
    if one.recordings < 2:
        assert one.low is None
    elif one.low is not None:
        assert one.low <= one.value <= one.high


def test_frames_of_few_recordings_make_a_wide_interval() -> None:
    rng = np.random.default_rng(0)
    shift = np.repeat(rng.normal(0, 1, 10), 100)
    bad = np.tile([True, False], 500)
    scores = 1 / (1 + np.exp(-(shift + bad + rng.normal(0, 0.5, 1000))))
    by_recording = interval(lambda w: auc(scores, bad, w), np.repeat(np.arange(10), 100))
    by_frame = interval(lambda w: auc(scores, bad, w), np.arange(1000))
    assert by_recording.high - by_recording.low > 1.5 * (by_frame.high - by_frame.low)


def test_the_promised_escape_rate_holds_for_new_recordings() -> None:
    """40 plants: validation promises, 15 new recordings keep it in nearly all of them. Promising by the bootstrap of
    validation alone, without leaving recordings out, fails this.
    """
    rng = np.random.default_rng(1)

    def recordings(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        names, bad = np.repeat(np.arange(count), 40), np.tile([True, False], 20 * count)
        margin = np.where(bad, 2.5, -2.5) + np.repeat(rng.normal(0, 1.2, count), 40) + rng.normal(0, 1, 40 * count)
        return 1 / (1 + np.exp(-margin)), bad, names

    kept = 0
    for _ in range(40):
        scores, bad, names = recordings(15)
        promise = choose_threshold(scores, bad, names, 0.05, draws=300)
        new_scores, new_bad, _ = recordings(15)
        kept += promise.escapes.contains(float(np.mean(new_scores[new_bad] < promise.value)))
    assert kept >= 36


def test_a_threshold_needs_both_classes() -> None:
    with pytest.raises(ValueError, match="good and defective"):
        choose_threshold(np.array([0.5]), np.array([True]), np.array(["r"]), 0.1)


@pytest.mark.parametrize(("temperature", "shift"), [(0.5, 0.0), (1.0, 2.0), (3.0, -1.5)])
def test_temperature_and_shift_are_found_again(temperature: float, shift: float) -> None:
    rng = np.random.default_rng(4)
    honest = rng.normal(0, 3, 20_000)
    bad = rng.random(20_000) < 1 / (1 + np.exp(-honest))
    found = fit_temperature_and_shift(honest * temperature - shift, bad)
    assert found == (pytest.approx(temperature, rel=0.05), pytest.approx(shift, abs=0.1))


def test_what_separates_perfectly_has_a_calibration_too() -> None:
    logits = np.array([-5.0, -4.0, 4.0, 5.0]) + 2
    temperature, shift = fit_temperature_and_shift(logits, logits > 0)
    assert np.isfinite([temperature, shift]).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_found_again(temperature: float) -> None:
    rng = np.random.default_rng(2)
    honest = rng.normal(0, 2, 20_000)
    bad = rng.random(20_000) < 1 / (1 + np.exp(-honest))
    assert fit_temperature(honest * temperature, bad) == pytest.approx(temperature, rel=0.05)


def test_perfect_separation_does_not_make_certainty() -> None:
    bad = np.repeat([True, False], 100)
    logits = np.where(bad, 3.0, -3.0)
    said = 1 / (1 + np.exp(-logits / fit_temperature(logits, bad)))
    assert said[bad][0] == pytest.approx(101 / 102, abs=1e-3)


def test_ece_sees_overconfidence() -> None:
    rng = np.random.default_rng(3)
    truth = rng.random(50_000)
    bad = rng.random(50_000) < truth
    assert ece(truth, bad) < 0.01
    assert ece(np.where(truth > 0.5, 0.99, 0.01), bad) == pytest.approx(0.24, abs=0.02)


@given(SCORES, st.floats(0.01, 0.5))
def test_the_review_band_takes_no_more_than_its_share(rows: list[tuple[int, bool, int]], most: float) -> None:
    scores, bad, recordings = _arrays(rows)
    threshold = choose_threshold(scores, bad, recordings, 0.1, draws=50)
    band = statistics.review_band(scores, threshold, most)
    if band is not None:
        assert band[0] <= threshold.value <= band[1]
        assert np.mean((scores >= band[0]) & (scores < band[1])) <= most


def test_roc_runs_from_nothing_to_everything_rejected() -> None:
    over, escape, _ = statistics.roc(np.array([0.2, 0.8, 0.5]), np.array([False, True, True]))
    assert (over[0], escape[0]) == (0.0, 1.0)
    assert (over[-1], escape[-1]) == (1.0, 0.0)
