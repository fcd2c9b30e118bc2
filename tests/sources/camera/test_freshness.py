"""Which frames of a live stream had been waiting."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.sources.camera.freshness import DRAIN_S, LATE_S, Freshness


def judged(frames: list[tuple[float, float]]) -> list[bool]:
    fresh = Freshness()
    return [fresh(at, stream_s) for at, stream_s in frames]


def live(begin: float, count: int, stream_s: float = 0.0, period: float = 0.04) -> list[tuple[float, float]]:
    return [(begin + number * period, stream_s + number * period) for number in range(count)]


def test_what_was_buffered_while_connecting_is_passed_over() -> None:
    burst = [(10 + 0.002 * number, 0.04 * number) for number in range(25)]
    assert judged(burst + live(10.09, 50, 1.0)) == [False] * 25 + [True] * 50


def test_a_stream_that_is_live_from_its_first_frame_on() -> None:
    assert judged(live(10, 100)) == [False] + [True] * 99


def test_what_waited_in_the_network_is_passed_over() -> None:
    hiccup = [(13.9 + 0.002 * number, 2.0 + 0.04 * number) for number in range(45)]
    got = judged(live(10, 50) + hiccup + live(14.0, 50, 3.8))
    assert got[1:50] == [True] * 49
    late = [at - 10 - stream_s > LATE_S for at, stream_s in hiccup]
    assert [not fresh for fresh in got[50:95]] == late
    assert any(late)
    assert got[95:] == [True] * 50


def test_a_stream_whose_clock_is_set_is_believed_again_after_a_moment() -> None:
    for jump in (-1000.0, 1000.0):
        got = judged(live(10, 50) + live(12, 100, 2 + jump))
        assert sum(not fresh for fresh in got[50:]) <= DRAIN_S / 0.04 + 2
        assert got[-1]


def test_a_stream_without_a_clock_is_fresh() -> None:
    assert judged([(10 + 0.04 * number, 0.0) for number in range(50)]) == [False] + [True] * 49


@given(
    st.floats(0.005, 0.5),
    st.lists(st.floats(0, 0.2), min_size=50, max_size=300),
    st.floats(-1e-4, 1e-4),
)
def test_jitter_and_drifting_clocks_make_no_frame_late_for_long(
    period: float, jitter: list[float], drift: float
) -> None:
    at, frames = 100.0, []
    for number, late in enumerate(jitter):
        at = max(at, 100 + number * period + late)
        frames.append((at, number * period * (1 + drift)))
    got = judged(frames)
    settled = next(index for index, (when, _) in enumerate(frames) if when - 100 > DRAIN_S or index == len(frames) - 1)
    assert all(got[settled + 1 :])
