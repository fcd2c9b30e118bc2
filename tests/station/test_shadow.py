"""A candidate beside the active bundle: same frames, its own lines, and never in the way."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import numpy as np
import pytest

from agent.app.bundles.shadow import Shadow, ShadowLog
from agent.clock import ManualClock, SystemClock, days_ago
from agent.config import ResultsConfig
from agent.frame import Frame
from agent.health import Health
from agent.image import Picture
from agent.inspection import inspect
from agent.model.loading import Loaded, load
from agent.model.store import Store
from tests.support.bundles import brightness_bundle, flat_png
from tests.support.mosquitto import Listener, Mosquitto
from tests.support.station import Station, until, weldwatch

pytestmark = pytest.mark.quiet

SCHEMA = json.loads((Path(__file__).parents[2] / "config" / "schemas" / "shadow.schema.json").read_text())


def shadow_lines(results: Path) -> list[dict[str, Any]]:
    days = sorted((results / "shadow").glob("*.jsonl"))
    return [json.loads(line) for day in days for line in day.read_bytes().splitlines()]


def test_a_running_station_judges_beside_and_compares(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "broker") as broker:
        station = Station(tmp_path / "s", mqtt={"host": broker.host, "port": broker.port})
        brightness_bundle(tmp_path / "c.pipeline", version="2.0.0", threshold=0.2)
        at_station = ("--config", station.file)
        assert weldwatch("bundle", "install", tmp_path / "c.pipeline", *at_station).returncode == 0
        with (
            Listener(broker.port, f"{station.topic}/shadow") as beside,
            Listener(broker.port, f"{station.topic}/status") as status,
            station.running(),
        ):
            told = weldwatch("bundle", "shadow", "brightness-2.0.0", *at_station)
            assert "judges beside the active bundle" in told.stdout, told.stderr
            told_at = time.monotonic()
            status.until(lambda all_: bool(all_) and all_[-1]["bundle"]["shadow"] == "brightness-2.0.0")
            assert time.monotonic() - told_at < 2.0
            levels = (10, 100, 240)
            for number, level in enumerate(levels):
                station.put(f"P{number}.png", flat_png(level))
            heard = beside.until(lambda all_: len(all_) == len(levels))
            results = {one["result_id"]: one for one in station.wait_for(len(levels))}
            assert weldwatch("bundle", "shadow", "--off", *at_station).returncode == 0
            status.until(lambda all_: all_[-1]["bundle"]["shadow"] is None)
            station.put("alone.png", flat_png(10))
            assert [one["sequence"] for one in station.wait_for(len(levels) + 1)] == [1, 2, 3, 4]
    lines = shadow_lines(station.results)
    assert sorted(heard, key=str) == sorted(lines, key=str)
    assert [line["schema"] for line in lines] == ["weldwatch.shadow/1"] * len(levels)
    for line in lines:
        jsonschema.validate(line, SCHEMA)
        result = results[line["result_id"]]
        assert (line["image"], line["active"]["evaluation"]) == (result["image"], result["evaluation"])
        assert (line["model"]["version"], line["active"]["model"]["version"], line["sequence"]) == (
            "2.0.0",
            "1.0.0",
            None,
        )
    assert sorted((line["active"]["evaluation"], line["evaluation"]) for line in lines) == [
        ("NotOK", "NotOK"), ("OK", "NotOK"), ("OK", "OK")
    ]  # fmt: skip
    labels = tmp_path / "labels.csv"
    labels.write_text("image;label\nP0.png;OK\nP1.png;NotOK\nP2.png;NotOK\n")
    told = json.loads(weldwatch("bundle", "compare", "--labels", labels, "--json", *at_station).stdout)
    assert (told["frames"], told["skipped"], told["agreement"]["count"]) == (3, 0, 2)
    escapes = told["labelled"]["escapes"]
    assert [(escapes[who]["count"], escapes[who]["of"]) for who in ("active", "candidate")] == [(1, 2), (0, 2)]
    wrong = weldwatch("bundle", "compare", "--since", "yesterday", *at_station)
    assert (wrong.returncode, "give a day as YYYY-MM-DD" in wrong.stderr) == (2, True)
    shown = weldwatch("bundle", "compare", "--labels", labels, *at_station).stdout
    assert "escapes   candidate  0 in 2 defects: 0.0%  up to 65.8% at 95%" in shown
    assert "P1.png  active OK, candidate NotOK, reviewed NotOK" in shown


# --- the shadow alone ---


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    brightness_bundle(tmp_path / "c.pipeline", version="2.0.0")
    return load(tmp_path / "c.pipeline")


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def shadow(tmp_path: Path, health: Health) -> Iterator[Shadow]:
    made = Shadow(ResultsConfig(directory=str(tmp_path / "results")), health, SystemClock())
    yield made
    made.stop()


def a_frame(number: int = 0, size: int = 128) -> Frame:
    picture = Picture.from_array(np.full((size, size), 100, np.uint8))
    return Frame("captures", f"{number}.png", b"", datetime.now(timezone.utc), "mtime", picture=picture)


def see(shadow: Shadow, frame: Frame, model: Any) -> None:
    shadow.see(frame, inspect(frame, model, None, SystemClock()))


class Slow:
    """A candidate that takes as long as it is let."""

    def __init__(self, loaded: Loaded) -> None:
        self.facts, self.decision, self._model = loaded.model.facts, loaded.model.decision, loaded.model
        self.at_work, self.go_on = threading.Event(), threading.Event()

    def judge(self, picture: Picture) -> Any:
        self.at_work.set()
        assert self.go_on.wait(10)
        return self._model.judge(picture)


def test_a_slow_candidate_skips_and_counts_and_nobody_waits(
    shadow: Shadow, loaded: Loaded, health: Health, tmp_path: Path
) -> None:
    slow = Slow(loaded)
    shadow.use(with_model(loaded, slow))
    shadow.start()
    see(shadow, a_frame(0), loaded.model)
    assert slow.at_work.wait(10)
    began = time.monotonic()
    for number in range(1, 101):
        see(shadow, a_frame(number), loaded.model)
    assert time.monotonic() - began < 5
    assert health.counters()["shadow_skipped"] == 96, "four wait"
    slow.go_on.set()
    until(lambda: health.counters().get("shadow_judged") == 5, "those that fitted")
    lines = shadow_lines(tmp_path / "results")
    assert [line["image"]["name"] for line in lines] == ["0.png", "1.png", "2.png", "3.png", "4.png"]
    assert sum(line["skipped"] for line in lines) == 96


def with_model(loaded: Loaded, model: Any) -> Loaded:
    from dataclasses import replace

    return replace(loaded, model=model)


def test_large_pictures_do_not_pile_up(shadow: Shadow, loaded: Loaded, health: Health) -> None:
    slow = Slow(loaded)
    shadow.use(with_model(loaded, slow))
    shadow.start()
    see(shadow, a_frame(0, 3000), loaded.model)
    assert slow.at_work.wait(10)
    for number in range(1, 4):
        see(shadow, a_frame(number, 3000), loaded.model)
    assert health.counters()["shadow_skipped"] == 2, "one of nine megapixels waits, alone"
    slow.go_on.set()


def test_a_candidate_that_fails_ends_the_shadow_only(shadow: Shadow, loaded: Loaded, health: Health) -> None:
    class Broken(Slow):
        def judge(self, picture: Picture) -> Any:
            raise ZeroDivisionError("its own fault")

    shadow.use(with_model(loaded, Broken(loaded)))
    shadow.start()
    see(shadow, a_frame(), loaded.model)
    until(lambda: shadow.loaded is None, "the end of the shadow")
    assert "its own fault" in health.problems()["shadow_refused"]
    see(shadow, a_frame(), loaded.model)


def test_what_cannot_be_read_is_no_matter_for_a_candidate(shadow: Shadow, loaded: Loaded, health: Health) -> None:
    from agent.errors import ImageError

    shadow.use(loaded)
    shadow.start()
    frame = Frame(
        "captures", "x.png", b"", datetime.now(timezone.utc), "mtime", problem=ImageError("unreadable_image", "")
    )
    see(shadow, frame, loaded.model)
    see(shadow, a_frame(), loaded.model)
    until(lambda: health.counters().get("shadow_judged") == 1, "the readable one")


def test_a_disk_that_takes_no_line_costs_lines_and_nothing_else(
    shadow: Shadow, loaded: Loaded, health: Health, tmp_path: Path
) -> None:
    (tmp_path / "results").write_text("no folder")
    shadow.use(loaded)
    shadow.start()
    for number in range(3):
        see(shadow, a_frame(number), loaded.model)
        until(lambda number=number: health.counters().get("shadow_judged") == number + 1, "the frame")
    assert health.counters()["shadow_unwritten"] == 3
    assert shadow.loaded is loaded


def test_the_log_ends_a_torn_line_and_lets_old_days_go(tmp_path: Path) -> None:
    clock = ManualClock(datetime(2026, 11, 22, 23, 59, tzinfo=timezone.utc))
    (tmp_path / "2026-11-22.jsonl").write_bytes(b'{"torn')
    (tmp_path / "2026-10-01.jsonl").write_bytes(b"{}\n")
    log = ShadowLog(tmp_path, 30, days_ago(clock))
    log.append(b"{}", clock)
    log.append(b"{}", clock)
    clock.advance(120)
    log.append(b"{}", clock)
    log.close()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {
        "2026-11-22.jsonl": b'{"torn\n{}\n{}\n', "2026-11-23.jsonl": b"{}\n"
    }  # fmt: skip


def test_a_candidate_that_does_not_pass_is_refused_and_said(tmp_path: Path) -> None:
    golden = brightness_bundle(tmp_path / "x").golden
    wrong = [msgspec.structs.replace(one, outputs={"fp32": [0.5, 0.5]}) for one in golden]
    brightness_bundle(tmp_path / "c.pipeline", version="2.0.0", golden=wrong)
    with Mosquitto(tmp_path / "broker") as broker:
        station = Station(tmp_path / "s", mqtt={"host": broker.host, "port": broker.port})
        store = Store(station.root / "state")
        store.install(tmp_path / "c.pipeline")
        refused = weldwatch("bundle", "shadow", "brightness-2.0.0", "--config", station.file)
        assert (refused.returncode, "self-test failed" in refused.stderr) == (2, True)
        with Listener(broker.port, f"{station.topic}/status") as status, station.running():
            store.set_shadow("brightness-2.0.0")  # as if the command had not looked
            status.until(lambda all_: bool(all_) and "shadow_refused" in all_[-1]["problems"])
            station.put("a.png", flat_png(10))
            (result,) = station.wait_for(1)
            assert result["evaluation"] == "OK"
            store.set_shadow(None)
            status.until(lambda all_: all_[-1]["problems"] == [])


def test_the_activated_candidate_is_no_candidate_any_more(tmp_path: Path) -> None:
    store = Store(tmp_path / "state")
    brightness_bundle(tmp_path / "c.pipeline", version="2.0.0")
    store.install(tmp_path / "c.pipeline")
    store.set_shadow("brightness-2.0.0")
    store.activate("brightness-2.0.0")
    assert store.shadow() is None
