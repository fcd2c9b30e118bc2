"""Bundles on a running station: swapped without losing a frame, refused without stopping the line, rolled back."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from datetime import datetime
from pathlib import Path

import msgspec
import pytest

from agent.app.bundles.trial import FRAMES as TRIAL_FRAMES
from agent.model.store import Store
from tests.support.bundles import brightness_bundle, flat_png
from tests.support.mosquitto import Listener, Mosquitto
from tests.support.station import Station, until, weldwatch

pytestmark = pytest.mark.quiet


def bundle(station: Station, *arguments: str | Path, code: int = 0) -> str:
    verb, *rest = arguments
    done = weldwatch("bundle", verb, *rest, "--config", station.file)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def made(folder: Path, version: str, **changes: object) -> Path:
    path = folder / f"brightness-{version}.pipeline"
    brightness_bundle(path, version=version, **changes)
    return path


def test_by_command_line_a_running_agent_takes_a_bundle_up_within_two_seconds(tmp_path: Path) -> None:
    station = Station(tmp_path / "s")
    made(tmp_path, "2.0.0", threshold=0.9)
    with station.running():
        assert "next: weldwatch bundle activate brightness-2.0.0" in bundle(
            station, "install", tmp_path / "brightness-2.0.0.pipeline"
        )
        told = bundle(station, "activate", "brightness-2.0.0")
        assert "the running agent judges with it" in told
        assert b"bundle brightness 2.0.0 (fp32): self-test passed" in station.log.read_bytes(), "it was waited for"
        moved = (station.root / "state" / "bundles" / "active.json").stat().st_mtime
        judging = json.loads(bundle(station, "list", "--json"))["judging"]
        assert datetime.fromisoformat(judging["since"].replace("Z", "+00:00")).timestamp() - moved < 2.0
        assert "* brightness-2.0.0  judges since" in bundle(station, "list")
        station.put("a.png", flat_png(180))
        (result,) = station.wait_for(1)
        assert (result["model"]["version"], result["evaluation"]) == ("2.0.0", "OK")
    assert "* brightness-2.0.0\n* is what was activated; no agent is running" in bundle(station, "list")
    station.put("b.png", flat_png(180))
    assert station.once().returncode == 0
    assert station.lines()[-1]["model"]["version"] == "2.0.0", "after a restart the pointer rules, not bundle.initial"


def test_a_bundle_that_fails_its_self_test_here_is_not_activated_and_the_line_goes_on(tmp_path: Path) -> None:
    station = Station(tmp_path / "s")
    manifest = brightness_bundle(tmp_path / "x")
    wrong = [msgspec.structs.replace(one, outputs={"fp32": [0.5, 0.5]}) for one in manifest.golden]
    made(tmp_path, "2.0.0", golden=wrong)
    with Mosquitto(tmp_path / "broker") as broker:
        station.settings["mqtt"] = {"host": broker.host, "port": broker.port}
        station.write()
        with Listener(broker.port, f"{station.topic}/status") as status, station.running():
            bundle(station, "install", tmp_path / "brightness-2.0.0.pipeline")
            assert "self-test failed on this machine" in bundle(station, "activate", "brightness-2.0.0", code=2)
            Store(station.root / "state").activate("brightness-2.0.0")  # as if the command had not looked
            status.until(lambda all_: "bundle_refused" in all_[-1].get("problems", []))
            station.put("a.png", flat_png(180))
            (result,) = station.wait_for(1)
            assert result["model"]["version"] == "1.0.0"
        station.put("b.png", flat_png(180))
        done = station.once()
    assert "bundle_fell_back" in done.stderr
    assert [one["model"]["version"] for one in station.lines()] == ["1.0.0", "1.0.0"]


def test_a_swap_that_makes_frames_undecidable_is_undone(tmp_path: Path) -> None:
    station = Station(tmp_path / "s")
    Store(station.root / "state").install(made(tmp_path, "1.0.0"))
    Store(station.root / "state").activate("brightness-1.0.0")
    Store(station.root / "state").install(made(tmp_path, "2.0.0", **reviewing_everything()))
    with station.running():
        for number in range(10):
            station.put(f"before{number}.png", flat_png(100))
        station.wait_for(10)
        bundle(station, "activate", "brightness-2.0.0")
        until(lambda: b"bundle brightness 2.0.0 (fp32)" in station.log.read_bytes(), "the swap")
        for number in range(TRIAL_FRAMES):
            station.put(f"trial{number}.png", flat_png(100))
        until(lambda: b"bundle_rolled_back" in station.log.read_bytes(), "the rollback")
        station.put("after.png", flat_png(100))
        results = station.wait_for(11 + TRIAL_FRAMES)
    counts = Counter(one["evaluation"] for one in results)
    assert counts["OK"] >= 11
    assert 15 <= counts["NotDecidable"] <= TRIAL_FRAMES, "as soon as 0.3 of the trial cannot be made good any more"
    assert results[-1]["model"]["version"] == "1.0.0"
    assert "* brightness-1.0.0" in bundle(station, "list")


def reviewing_everything() -> dict[str, object]:
    from agent.bundle.manifest import DecisionRule

    return {"decision": DecisionRule(good=[0], threshold=1.0, review=(0.0, 1.0))}


@pytest.mark.slow
def test_two_hundred_swaps_at_fifty_frames_a_second_lose_and_delay_nothing(tmp_path: Path) -> None:
    station = Station(tmp_path / "s")
    station.settings["sources"][0]["settle_s"] = 0.0
    station.write()
    store, swaps, rate = Store(station.root / "state"), 200, 50
    for version in ("1.0.0", "2.0.0"):
        store.install(made(tmp_path, version))
    stop, sent = threading.Event(), []

    def camera() -> None:
        started = time.monotonic()
        while not stop.is_set():
            station.put(f"{len(sent):06d}.png", flat_png(len(sent) % 256))
            sent.append(time.time())
            stop.wait(max(0.0, started + len(sent) / rate - time.monotonic()))

    with station.running():
        thread = threading.Thread(target=camera)
        thread.start()
        try:
            for number in range(swaps):
                version = f"{2 - number % 2}.0.0"
                seen = station.log.read_bytes().count(b"self-test passed")
                store.activate(f"brightness-{version}")
                until(lambda seen=seen: station.log.read_bytes().count(b"self-test passed") > seen, "the swap")
        finally:
            stop.set()
            thread.join()
        results = station.wait_for(len(sent))
    assert len(results) == len(sent)
    assert Counter(one["image"]["name"] for one in results).most_common(1)[0][1] == 1
    assert {one["model"]["version"] for one in results} == {"1.0.0", "2.0.0"}
    total = sorted(one["timing_ms"]["total"] for one in results)
    assert total[-1] < total[len(total) // 2] + 50, f"median {total[len(total) // 2]} ms, slowest {total[-1]} ms"


def test_inspect_shows_people_what_a_bundle_is(tmp_path: Path) -> None:
    path = made(tmp_path, "1.0.0", notice="[red]careful\x1b[2J")
    shown = weldwatch("bundle", "inspect", path)
    assert shown.returncode == 0
    for part in (
        "brightness 1.0.0",
        "[red]careful\\x1b[2J",
        "no defect, defect",
        "SYNTHETIC",
        "NotOK from a defect probability of 0.5",
    ):
        assert part in shown.stdout
    answer = json.loads(weldwatch("bundle", "inspect", path, "--json").stdout)
    assert (answer["name"], answer["signed"]) == ("brightness", "no")


def test_keygen_sign_and_verify(tmp_path: Path) -> None:
    path, keys = made(tmp_path, "1.0.0"), tmp_path / "keys"
    keys.mkdir()
    assert weldwatch("bundle", "keygen", tmp_path / "plant").returncode == 0
    (tmp_path / "plant.pub").rename(keys / "plant.pub")
    refused = weldwatch("bundle", "verify", path, "--trusted-keys", keys)
    assert (refused.returncode, "is not signed" in refused.stderr) == (2, True)
    assert weldwatch("bundle", "sign", path, "--key", tmp_path / "plant").returncode == 0
    answer = json.loads(weldwatch("bundle", "verify", path, "--trusted-keys", keys, "--json").stdout)
    assert (answer["ok"], answer["signed_by"]) == (True, "plant")
