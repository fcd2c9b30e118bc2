"""The first frames after a swap: a bundle that does harm is taken back, by itself and soon."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from agent.app.bundles.trial import FRAMES, Trial
from agent.health import Health
from agent.model.loading import load
from agent.model.store import Store
from tests.support.bundles import brightness_bundle, failing_graph, flat_png
from tests.support.judge import bundles
from tests.support.station import Station, until


def judged(health: Health, good: int, *, undecided: int = 0, failed: int = 0) -> None:
    health.count("judged", good + undecided + failed)
    health.count("judged_undecided", undecided + failed)
    health.count("judged_failed", failed)


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def trial(tmp_path: Path, health: Health) -> Trial:
    brightness_bundle(tmp_path / "b.pipeline")
    judged(health, 90, undecided=10)
    return Trial(load(tmp_path / "b.pipeline"), health)


def test_a_bundle_like_the_one_before_is_kept(trial: Trial, health: Health) -> None:
    judged(health, 40, undecided=9)
    assert trial.verdict() is None
    judged(health, 1)
    assert trial.verdict() == "kept"


def test_more_undecided_frames_undo_it_as_soon_as_the_trial_cannot_end_well(trial: Trial, health: Health) -> None:
    judged(health, 0, undecided=19)
    assert trial.verdict() is None
    judged(health, 0, undecided=1)
    assert trial.verdict() == "20 of the first 20 frames were not decidable, 10% before"


def test_failures_of_the_model_undo_it_sooner(trial: Trial, health: Health) -> None:
    judged(health, 20, failed=4)
    assert trial.verdict() is None
    judged(health, 0, failed=1)
    assert trial.verdict() == "5 of the first 25 frames failed in the model, 0% before"


def test_frames_that_came_late_count_as_well(trial: Trial, health: Health) -> None:
    judged(health, 200, undecided=2 * FRAMES)
    assert trial.verdict() == "kept"


def test_without_frames_before_only_failures_undo_it(tmp_path: Path) -> None:
    brightness_bundle(tmp_path / "b.pipeline")
    loaded = load(tmp_path / "b.pipeline")
    first = Trial(loaded, health := Health())
    judged(health, 0, undecided=FRAMES)
    assert first.verdict() == "kept", "nothing says that these parts are any clearer to another model"
    first = Trial(loaded, health := Health())
    judged(health, 0, failed=5)
    assert str(first.verdict()).startswith("5 of the first 5 frames failed")


def test_what_a_person_has_withdrawn_does_not_come_back_by_itself(tmp_path: Path) -> None:
    brightness_bundle(tmp_path / "1.0.0.pipeline")
    made, health = bundles(tmp_path, initial=tmp_path / "1.0.0.pipeline")
    for version in ("2.0.0", "3.0.0"):
        brightness_bundle(tmp_path / f"{version}.pipeline", version=version)
        made.activate(made.store.install(tmp_path / f"{version}.pipeline"))
    judged(health, 100)
    assert made.rollback().name == "brightness 2.0.0"
    judged(health, 0, undecided=FRAMES)
    for _ in range(2):
        made.look()
        until(lambda: not made._changing.locked(), "the look")
    made.stop()
    assert (made.loaded.name, made.store.former()) == ("brightness 2.0.0", str(tmp_path / "1.0.0.pipeline"))


def test_the_pointer_goes_back_to_what_judges_again(tmp_path: Path) -> None:
    """Not to a bundle in between that was pointed at and refused."""
    brightness_bundle(tmp_path / "1.0.0.pipeline")
    made, health = bundles(tmp_path, initial=tmp_path / "1.0.0.pipeline")
    for version in ("2.0.0", "3.0.0"):
        brightness_bundle(tmp_path / f"{version}.pipeline", version=version)
        made.store.install(tmp_path / f"{version}.pipeline")
    made.store.activate("brightness-2.0.0", made.initial)  # not looked at: as if it had been refused
    made.activate("brightness-3.0.0")
    made.look()  # of the pointer, which has moved
    until(lambda: not made._changing.locked(), "the look")
    judged(health, 0, failed=5)
    made.look()
    made.stop()
    pointer = made.store.pointer()
    assert pointer is not None
    assert (made.loaded.name, pointer.active) == ("brightness 1.0.0", made.initial)


def test_a_model_that_fails_on_the_line_is_taken_back(tmp_path: Path) -> None:
    station, store = Station(tmp_path / "s"), Store(tmp_path / "s" / "state")
    for version, entries in (("1.0.0", {}), ("2.0.0", {"model/fp32.onnx": failing_graph()})):
        brightness_bundle(tmp_path / f"{version}.pipeline", version=version, entries=entries)
        store.install(tmp_path / f"{version}.pipeline")
    store.activate("brightness-1.0.0")
    with station.running():
        station.put("before.png", flat_png(250))
        station.wait_for(1)
        store.activate("brightness-2.0.0")
        until(lambda: b"bundle brightness 2.0.0 (fp32)" in station.log.read_bytes(), "the swap")
        for number in range(5):
            station.put(f"trial{number}.png", flat_png(250))
        until(lambda: b"bundle_rolled_back: 5 of the first 5 frames failed" in station.log.read_bytes(), "the rollback")
        station.put("after.png", flat_png(250))
        results = station.wait_for(7)
    assert Counter(one["evaluation"] for one in results) == {"NotOK": 2, "NotDecidable": 5}
    failed = [one for one in results if one["evaluation"] == "NotDecidable"]
    assert {one["reasons"][0]["code"] for one in failed} == {"inference_failed"}
    assert {one["model"]["version"] for one in failed} == {"2.0.0"}
    pointer = store.pointer()
    assert pointer is not None
    assert pointer.active == "brightness-1.0.0"
    assert results[-1]["model"]["version"] == "1.0.0"
