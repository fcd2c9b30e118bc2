from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from training import splitting
from training.duplicates import exact, near, nearest, standardise


@given(st.lists(st.sampled_from("abcde"), max_size=60), st.integers(0, 70))
def test_frames_are_taken_evenly_from_the_recordings(recordings: list[str], quota: int) -> None:
    chosen = splitting.pick(recordings, quota)
    assert len(chosen) == len(set(chosen)) == min(quota, len(recordings))
    taken = {one: sum(recordings[at] == one for at in chosen) for one in set(recordings)}
    for one, count in taken.items():
        left = recordings.count(one) - count
        assert not left or count >= max(taken.values()) - 1


def test_frames_of_a_recording_are_spread_along_its_time() -> None:
    assert splitting.pick(["r"] * 100, 5) == [0, 25, 50, 74, 99]


@settings(max_examples=15)  # each is a whole search
@given(st.integers(0, 2**32 - 1))
def test_every_side_gets_every_class_where_recordings_allow(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = np.zeros((24, 3), dtype=np.int64)
    counts[:, 0] = rng.integers(5, 20, 24)
    counts[np.arange(24), 1 + np.arange(24) % 2] = rng.integers(5, 20, 24)
    wanted = splitting.wanted_frames(counts.sum(axis=0), (None, None, None), [0])
    sides = splitting.by_recording(counts, wanted, np.full(24, -1), rng)
    for side in range(3):
        assert (counts[sides == side].sum(axis=0) > 0).all()


def test_a_given_side_stays() -> None:
    counts = np.ones((6, 2), dtype=np.int64)
    fixed = np.array([2, -1, -1, 2, -1, -1])
    wanted = splitting.wanted_frames(counts.sum(axis=0), (2, 2, 2), [0])
    sides = splitting.by_recording(counts, wanted, fixed, np.random.default_rng(0))
    assert sides[0] == sides[3] == 2


def test_sides_go_short_alike_and_none_gets_more_than_it_wants() -> None:
    wanted = np.array([[1000.0, 50, 1000], [300, 10, 20], [300, 10, 20]])
    assert splitting.within_reach(wanted, np.array([100, 70, 600])).T.tolist() == [
        [60, 20, 20],
        [50, 10, 10],
        [560, 20, 20],
    ]


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(3, 6), st.integers(3, 6))
def test_both_labels_lie_on_every_side_with_three_recordings_of_each(seed: int, good: int, bad: int) -> None:
    rng = np.random.default_rng(seed)
    counts = np.zeros((good + bad, 4), dtype=np.int64)
    counts[:good, 0] = rng.integers(1, 30, good)
    counts[np.arange(good, good + bad), 1 + rng.integers(0, 3, bad)] = rng.integers(1, 30, bad)
    wanted = splitting.wanted_frames(counts.sum(axis=0), (1000, 300, 300), [0])
    wanted = splitting.within_reach(wanted, counts.sum(axis=0))
    sides = splitting.by_recording(counts, wanted, np.full(good + bad, -1), rng)
    for side in range(3):
        assert counts[sides == side, 0].sum() > 0
        assert counts[sides == side, 1:].sum() > 0


def test_quotas_are_shared_equally_by_the_kinds_of_defect() -> None:
    wanted = splitting.wanted_frames(np.array([100, 40, 0, 60]), (30, 10, None), [0])
    assert wanted[0].tolist() == [30, 15, 0, 15]
    assert wanted[1].tolist() == [10, 5, 0, 5]
    assert wanted[2].tolist() == [20, 8, 0, 12]


def test_a_frame_shown_twice_is_kept_once_and_with_two_labels_not_at_all() -> None:
    found = exact(["a", "b", "c", "d"], [0, 0, 1, 0], ["p", "p", "q", "q"])
    assert {(one.name, one.of) for one in found} == {("b", "a"), ("c", "d"), ("d", "c")}


def test_near_repeats_are_found_whatever_the_exposure() -> None:
    rng = np.random.default_rng(5)
    thumbs = rng.integers(20, 120, (6, 1024)).astype(np.uint8)
    thumbs[4] = thumbs[0] * 2 + 3
    found = near(list("abcdef"), ["train", "train", "val", "train", "test", "val"], thumbs, 0.997)
    assert [(one.name, one.of) for one in found] == [("a", "e")]


def test_the_nearest_is_found_across_blocks() -> None:
    rng = np.random.default_rng(6)
    those = standardise(rng.integers(0, 255, (5000, 16)).astype(np.uint8))
    at, alike = nearest(those[[4999, 3]], those)
    assert at.tolist() == [4999, 3]
    assert alike.min() > 0.999
