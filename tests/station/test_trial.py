"""The first frames after a swap: a bundle that does harm is taken back, by itself and soon."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from agent.app.bundles import probation
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


# --- and when the agent goes down within it ---


def two_versions(station: Station, **second: bytes) -> Store:
    """1.0.0 judges, 2.0.0 is installed."""
    store = Store(station.root / "state")
    entries = {"model/fp32.onnx": second["graph"]} if second else {}
    for version, changed in (("1.0.0", {}), ("2.0.0", entries)):
        path = station.root.parent / f"{version}.pipeline"
        brightness_bundle(path, version=version, entries=changed)
        store.install(path)
    store.activate("brightness-1.0.0")
    return store


def active(store: Store) -> str:
    pointer = store.pointer()
    assert pointer is not None
    return pointer.active


def swapped(station: Station, store: Store) -> None:
    """The running agent takes 2.0.0 up."""
    said = station.log.read_bytes().count(b"bundle brightness 2.0.0 (fp32)")
    store.activate("brightness-2.0.0")
    until(lambda: station.log.read_bytes().count(b"bundle brightness 2.0.0 (fp32)") > said, "the swap")


def killed_within_its_trial(station: Station, store: Store) -> None:
    process = station.start()
    try:
        station.put("before.png", flat_png(250))
        station.wait_for(1)
        swapped(station, store)
        station.put("after.png", flat_png(250))
        assert station.wait_for(2)[-1]["model"]["version"] == "2.0.0"
    finally:
        process.kill()
        process.wait()


def test_a_bundle_that_takes_the_agent_with_it_does_not_come_up_again(tmp_path: Path) -> None:
    station = Station(tmp_path / "s")
    store = two_versions(station)
    killed_within_its_trial(station, store)
    with station.running():
        station.put("again.png", flat_png(250))
        assert station.wait_for(3)[-1]["model"]["version"] == "1.0.0"
        assert active(store) == "brightness-1.0.0"
        assert b"bundle_rolled_back: the agent died with brightness-2.0.0 in its trial" in station.log.read_bytes()
        swapped(station, store)  # somebody insists
    with station.running():
        station.put("insisted.png", flat_png(250))
        assert station.wait_for(4)[-1]["model"]["version"] == "2.0.0", "an orderly end is no death"


def test_one_that_was_pointed_at_while_the_agent_was_stopped_is_on_trial_as_well(tmp_path: Path) -> None:
    station = Station(tmp_path / "s")
    store = two_versions(station)
    station.put("first.png", flat_png(250))
    station.once()
    store.activate("brightness-2.0.0")
    process = station.start()
    try:
        station.put("second.png", flat_png(250))
        assert station.wait_for(2)[-1]["model"]["version"] == "2.0.0"
    finally:
        process.kill()
        process.wait()
    with station.running():
        station.put("third.png", flat_png(250))
        assert station.wait_for(3)[-1]["model"]["version"] == "1.0.0"
        assert active(store) == "brightness-1.0.0"


def test_one_that_was_taken_back_by_hand_while_the_agent_was_stopped_does_not_come_back(tmp_path: Path) -> None:
    station = Station(tmp_path / "s")
    store = two_versions(station)
    store.activate("brightness-2.0.0")
    station.put("first.png", flat_png(250))
    station.once()
    store.rollback()
    process = station.start()
    try:
        station.put("second.png", flat_png(250))
        assert station.wait_for(2)[-1]["model"]["version"] == "1.0.0"
    finally:
        process.kill()
        process.wait()
    with station.running():
        assert active(store) == "brightness-1.0.0"
    assert b"bundle_rolled_back" not in station.log.read_bytes()


def test_a_bundle_whose_trial_is_over_stays_whatever_becomes_of_the_agent(tmp_path: Path) -> None:
    station = Station(tmp_path / "s")
    store = two_versions(station)
    process = station.start()
    try:
        until(lambda: station.log.exists() and b" watches " in station.log.read_bytes(), "the start")
        swapped(station, store)
        assert (store.folder / "trial.json").exists()
        for number in range(FRAMES):
            station.put(f"{number}.png", flat_png(250))
        station.wait_for(FRAMES)
        until(lambda: not (store.folder / "trial.json").exists(), "the end of the trial")
    finally:
        process.kill()
        process.wait()
    with station.running():
        assert active(store) == "brightness-2.0.0"


def test_a_trial_goes_on_after_a_restart(tmp_path: Path) -> None:
    station = Station(tmp_path / "s")
    store = two_versions(station, graph=failing_graph())
    with station.running():
        swapped(station, store)
    with station.running():
        for number in range(5):
            station.put(f"{number}.png", flat_png(250))
        until(lambda: b"bundle_rolled_back: 5 of the first 5 frames failed" in station.log.read_bytes(), "the rollback")
        station.put("after.png", flat_png(250))
        assert station.wait_for(6)[-1]["model"]["version"] == "1.0.0"
    assert active(store) == "brightness-1.0.0"


def test_a_start_that_fails_for_another_reason_is_no_death(tmp_path: Path) -> None:
    station = Station(tmp_path / "s")
    store = two_versions(station)
    with station.running():
        swapped(station, store)
    ledger = station.root / "state/ledger.sqlite3"
    ledger.rename(station.root / "ledger")
    ledger.mkdir()
    assert station.once().returncode == 2
    ledger.rmdir()
    (station.root / "ledger").rename(ledger)
    with station.running():
        assert active(store) == "brightness-2.0.0"


def test_a_machine_that_went_down_is_blamed_on_the_bundle_the_second_time_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boots = iter("abc")
    monkeypatch.setattr(probation, "_boot", lambda: boot)
    brightness_bundle(tmp_path / "1.0.0.pipeline")
    brightness_bundle(tmp_path / "2.0.0.pipeline", version="2.0.0")
    boot = next(boots)
    made, health = bundles(tmp_path, initial=tmp_path / "1.0.0.pipeline")
    judged(health, 90, undecided=10)
    made.activate(made.store.install(tmp_path / "2.0.0.pipeline"))
    made.start()  # and the power goes: nothing is stopped
    made._sign.close()
    boot = next(boots)
    made, health = bundles(tmp_path, initial=tmp_path / "1.0.0.pipeline")
    assert made.loaded.name == "brightness 2.0.0"
    assert made._trial is not None
    judged(health, 0, undecided=20)
    assert made._trial.verdict() == "20 of the first 20 frames were not decidable, 10% before"
    made.start()
    made._sign.close()
    boot = next(boots)
    made, health = bundles(tmp_path, initial=tmp_path / "1.0.0.pipeline")
    assert made.loaded.name == "brightness 1.0.0"
    assert "bundle_rolled_back" in health.problems()
    made.look()
    assert not (made.store.folder / "trial.json").exists()
    made.stop()


def test_a_station_that_is_switched_off_every_night_keeps_its_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some few frames a day, and the main switch in the evening: the trial takes days."""
    brightness_bundle(tmp_path / "1.0.0.pipeline")
    brightness_bundle(tmp_path / "2.0.0.pipeline", version="2.0.0")
    monkeypatch.setattr(probation, "_boot", lambda: "0")
    made, health = bundles(tmp_path, initial=tmp_path / "1.0.0.pipeline")
    made.activate(made.store.install(tmp_path / "2.0.0.pipeline"))
    for day in range(1, 5):
        made.start()
        judged(health, probation.PROVEN)
        for _ in range(2):  # the first one is of the pointer, where that has moved
            made.look()
            with made._changing:  # a thread of its own may be at it
                pass
        made._sign.close()
        monkeypatch.setattr(probation, "_boot", lambda day=day: str(day))
        made, health = bundles(tmp_path, initial=tmp_path / "1.0.0.pipeline")
        assert made.loaded.name == "brightness 2.0.0"
    made.stop()


@pytest.mark.parametrize("content", [b"", b"{", b'{"bundle": 1}', b"null", b"[" * 10_000])
def test_a_trial_that_cannot_be_read_is_none(tmp_path: Path, content: bytes) -> None:
    brightness_bundle(tmp_path / "1.0.0.pipeline")
    (tmp_path / "state/bundles").mkdir(parents=True)
    (tmp_path / "state/bundles/trial.json").write_bytes(content)
    made, health = bundles(tmp_path, initial=tmp_path / "1.0.0.pipeline")
    made.stop()
    assert not health.problems()


def test_what_a_person_pointed_at_meanwhile_is_not_on_trial_for_another(tmp_path: Path) -> None:
    brightness_bundle(tmp_path / "1.0.0.pipeline")
    made, _ = bundles(tmp_path, initial=tmp_path / "1.0.0.pipeline")
    for version in ("2.0.0", "3.0.0"):
        brightness_bundle(tmp_path / f"{version}.pipeline", version=version)
        made.store.install(tmp_path / f"{version}.pipeline")
    made.activate("brightness-2.0.0")
    made.start()
    made._sign.close()
    made.store.activate("brightness-3.0.0")  # with the agent dead
    made, health = bundles(tmp_path, initial=tmp_path / "1.0.0.pipeline")
    assert made.loaded.name == "brightness 3.0.0"
    assert not health.problems()
    made.stop()
