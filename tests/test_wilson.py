"""The interval of a share is the published one, and holds its share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.wilson import wilson


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_intervals(hits: int, n: int, low: float, high: float) -> None:
    """Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998)."""
    assert wilson(hits / n, n) == (pytest.approx(low, abs=6e-5), pytest.approx(high, abs=6e-5))


@given(st.integers(1, 10_000), st.data())
def test_wilson_is_symmetric(among: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, among))
    low, high = wilson(hits / among, among)
    other_low, other_high = wilson((among - hits) / among, among)
    assert (low, high) == (pytest.approx(1 - other_high, abs=1e-9), pytest.approx(1 - other_low, abs=1e-9))


@given(st.integers(1, 10_000), st.data())
def test_the_share_lies_in_its_interval(among: int, data: st.DataObject) -> None:
    share = data.draw(st.integers(0, among)) / among
    low, high = wilson(share, among)
    assert 0 <= low <= share <= high <= 1
