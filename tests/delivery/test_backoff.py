"""Pauses grow to their bound, differ, and begin anew after a success."""

from __future__ import annotations

import pytest

from agent.delivery.backoff import Backoff


@pytest.mark.parametrize(("never_shorter", "least"), [(False, 0.25), (True, None)])
def test_pauses_double_up_to_the_longest_with_jitter(never_shorter: bool, least: float | None) -> None:
    for _ in range(50):
        backoff = Backoff(0.2, 10.0, never_shorter=never_shorter)
        for whole in [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, *[10.0] * 2000]:
            assert (0.2 if least is None else whole * least) <= backoff.next_s() <= whole
        assert backoff.failures == 2006
        backoff.over()
        assert backoff.next_s() <= 0.2
    assert len({Backoff(0.2, 10.0).next_s() for _ in range(10)}) > 1
