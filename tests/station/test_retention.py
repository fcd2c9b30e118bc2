"""What goes when space is short, on a real small volume: the least interesting first, the undelivered never."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgspec
import pytest

from agent.app.belief import Belief
from agent.app.retention import Retention, Reviewed
from agent.clock import ManualClock, iso_utc
from agent.config import ResultsConfig
from agent.delivery import shedding
from agent.delivery.json_files import JsonFiles
from agent.errors import RetryError
from agent.health import Health
from agent.ledger import Ledger
from agent.ports import Stored
from agent.sources.camera.store import FrameStore, Keep
from tests.support.bundles import flat_png
from tests.support.results import an_entry
from tests.support.station import Station, until
from tests.support.volumes import in_own_mounts, volume


def kept(state: Path, clock: ManualClock, health: Health) -> Belief:
    """Of a station whose clock a time service keeps."""
    return Belief(state, timedelta(days=7), clock, health, None, lambda: True)


START = datetime(2026, 11, 1, tzinfo=timezone.utc)


@dataclass
class Place:
    """A station's ledger, files and frames on small volumes, without its threads."""

    state: Path
    results: Path
    clock: ManualClock
    config: ResultsConfig
    frames: FrameStore
    health: Health
    ledger: Ledger
    files: JsonFiles
    retention: Retention
    number: int = 0
    delivered: int = 0  #: to the far end

    @classmethod
    def on(cls, state: Path, results: Path, **changes: object) -> Place:
        config = ResultsConfig(**{"directory": str(results), "min_free_mb": 16, **changes})  # type: ignore[arg-type]
        clock, health = ManualClock(START), Health()
        ledger = Ledger.open(state, clock)
        ledger.register(["files", "mqtt"])
        keep, reviewed = Keep(90, 10**12), Reviewed(config)
        frames = FrameStore(results / "frames", "torch", "png", keep, clock, health, reviewed.interesting(ledger))
        files = JsonFiles(config, clock)
        retention = Retention(
            config, state, ledger, files, [frames], clock, health, reviewed, kept(state, clock, health)
        )
        return cls(state, results, clock, config, frames, health, ledger, files, retention)

    def inspect(self, count: int, *, frame_bytes: int = 0) -> None:
        """``count`` results in a minute, each twentieth NotOK; written to disk."""
        entries = []
        for _ in range(count):
            self.number += 1
            evaluation = "NotOK" if self.number % 20 == 0 else "NotDecidable" if self.number % 50 == 1 else "OK"
            name = f"{self.number}.png"
            if frame_bytes:
                name = self.frames.save(bytes(frame_bytes), "png", self.clock.now()).name
            moment = iso_utc(self.clock.now())
            entries.append(an_entry(self.number, name=name, created_at=moment, evaluation=evaluation))
            self.clock.advance(60 / count)
        self.ledger.commit(entries)
        while batch := self.ledger.after(self.ledger.cursor("files"), 100):
            self.ledger.advance("files", batch[self.files.deliver(batch) - 1].sequence)

    def deliver(self) -> list[Stored]:
        """The far end takes everything."""
        taken: list[Stored] = []
        while batch := self.ledger.after(self.ledger.cursor("mqtt"), 500):
            taken += batch
            self.ledger.advance("mqtt", batch[-1].sequence)
        self.delivered += len(taken)
        return taken

    def tend(self) -> int:
        steps = 0
        while self.retention.tend():
            steps += 1
        return steps

    def on_disk(self) -> list[dict[str, object]]:
        return [msgspec.json.decode(path.read_bytes()) for path in self.results.glob("2026-*/*.json")]

    def free_mb(self) -> float:
        facts = os.statvfs(self.results)
        return facts.f_bavail * facts.f_frsize / (1 << 20)


@pytest.mark.slow
@in_own_mounts
def test_a_month_at_full_rate_on_200_mb_without_a_lost_undelivered_result(tmp_path: Path) -> None:
    """Thirty days, the volume written several times over; the far end away for two of them and for some hours."""
    small = volume(tmp_path / "volume", 200)
    place = Place.on(small / "state", small / "results")
    lowest, taken = 1e9, Counter[str]()
    away = {*range(4 * 24, 6 * 24), *range(15 * 24, 15 * 24 + 7)}
    for hour in range(30 * 24):
        for _ in range(2):
            place.inspect(50, frame_bytes=3000)
            place.tend()
            lowest = min(lowest, place.free_mb())
            place.clock.advance(1740)
        if hour not in away:
            taken.update(one.result_id for one in place.deliver())
    taken.update(one.result_id for one in place.deliver())
    written = place.number * (4096 + 4096 + 1000 + 1500)
    assert written > 3 * 200e6
    assert lowest > place.config.min_free_mb, "inspection never had to wait"
    assert len(taken) == place.number == 30 * 24 * 100
    assert set(taken.values()) == {1}
    assert "retention_exhausted" not in place.health.problems()
    # Of the month the bad ones are still there, the good ones are those of the end.
    kept = Counter((str(one["evaluation"]), str(one["created_at"])[:10]) for one in place.on_disk())
    days = {evaluation: {day for name, day in kept if name == evaluation} for evaluation in ("OK", "NotOK")}
    assert min(days["NotOK"]) < min(days["OK"])
    assert len(days["NotOK"]) >= 25
    place.ledger.close()


@pytest.mark.slow
@pytest.mark.parametrize("away", [False, True])
@in_own_mounts
def test_a_day_at_twenty_a_second_outgrows_64_mb_and_inspection_goes_on(tmp_path: Path, away: bool) -> None:
    """An hour and a half: the log alone is larger than the volume. The far end may be away for some minutes of it."""
    small = volume(tmp_path / "volume", 64)
    place = Place.on(small / "state", small / "results", per_image=False, min_free_mb=4)
    place.clock.advance(3600)
    lowest, taken, parts = 1e9, Counter[str](), 0
    for minute in range(90):
        place.inspect(20 * 60)
        if not (away and minute % 30 in (10, 11, 12, 13)):
            taken.update(one.result_id for one in place.deliver())
        place.tend()
        place.clock.advance(2)
        place.tend()
        lowest = min(lowest, place.free_mb())
        parts = max(parts, len(list(place.results.glob("2026-11-01.*.jsonl"))))
    taken.update(one.result_id for one in place.deliver())
    assert place.number * 1000 > 1.6 * 64e6
    assert lowest > place.config.min_free_mb, "inspection never had to wait"
    assert len(taken) == place.number == 90 * 1200
    assert set(taken.values()) == {1}
    assert "retention_exhausted" not in place.health.problems()
    kept = [line for log in sorted(place.results.glob("2026-11-01*.jsonl")) for line in log.read_bytes().splitlines()]
    sequences = [int(msgspec.json.decode(line)["sequence"]) for line in kept]
    assert sequences == list(range(sequences[0], place.number + 1)), "the newest, each once and in order"
    assert sequences[0] > 1
    assert parts <= 3, "a part goes before another one is made"
    place.ledger.close()


def test_no_part_goes_before_it_is_delivered(tmp_path: Path) -> None:
    place = Place.on(tmp_path / "state", tmp_path / "results", min_free_mb=0, keep_gb=0.0001, per_image=False)
    place.inspect(1000)
    place.ledger.advance("mqtt", 950)
    cut = place.retention._folder.shed("2026-11-01")
    assert (cut.kind, cut.files) == ("cut", 0)
    (part,) = place.results.glob("2026-11-01.*.jsonl")
    place.inspect(1000)
    assert place.retention._folder.shed("2026-11-01") is None, "50 of the part are on their way; and one part waits"
    place.ledger.advance("mqtt", 1000)
    assert place.retention._folder.shed("2026-11-01").kind == "log"
    assert not part.exists()
    assert place.retention._folder.shed("2026-11-01") is None, "of what is left 100 and more have not arrived"
    assert len((place.results / "2026-11-01.jsonl").read_bytes().splitlines()) == 1000
    place.ledger.close()


def test_a_small_log_is_not_cut(tmp_path: Path) -> None:
    place = Place.on(tmp_path / "state", tmp_path / "results", min_free_mb=0, keep_gb=0.00001, per_image=False)
    place.inspect(200)
    place.deliver()
    place.tend()
    assert [path.name for path in place.results.glob("*.jsonl")] == ["2026-11-01.jsonl"]
    place.ledger.close()


@in_own_mounts
def test_a_disk_that_is_full_already_is_made_free_and_nothing_undelivered_goes(tmp_path: Path) -> None:
    small = volume(tmp_path / "volume", 96)
    place = Place.on(small / "state", small / "results", min_free_mb=4)
    for _ in range(50):
        place.inspect(100, frame_bytes=2000)
        place.clock.advance(1800)
    place.deliver()
    for _ in range(5):
        place.inspect(100)
    with (small / "somebody-elses").open("wb", buffering=0) as hog, contextlib.suppress(OSError):
        while hog.write(bytes(4096)):
            pass
    assert place.free_mb() == 0
    with pytest.raises(RetryError, match="full"):
        place.inspect(5000)
    place.tend()
    assert place.free_mb() >= 4 + 2 * 16
    there = {one["sequence"] for one in place.on_disk()}
    assert {one.sequence for one in place.deliver()} <= there
    place.inspect(100)
    assert len(place.deliver()) == 100
    place.ledger.close()


@in_own_mounts
def test_the_order_frames_then_ok_then_logs_then_not_ok(tmp_path: Path) -> None:
    small = volume(tmp_path / "volume", 64)
    place = Place.on(small / "state", small / "results", min_free_mb=0, keep_gb=1.0)
    for _ in range(4):
        place.inspect(100, frame_bytes=100)
        place.clock.advance(86_400)
    undelivered = place.number + 1
    place.inspect(100)
    place.ledger.advance("mqtt", undelivered - 1)
    gone = []
    place.retention._results.short = True
    while True:
        before = Counter(str(one["evaluation"]) for one in place.on_disk())
        logs, frames = len(list(place.results.glob("*.jsonl"))), len(list(place.results.rglob("*.png")))
        if not place.retention._shed_results(0):
            break
        after = Counter(str(one["evaluation"]) for one in place.on_disk())
        if len(list(place.results.rglob("*.png"))) < frames:
            gone.append("frames")
        elif len(list(place.results.glob("*.jsonl"))) < logs:
            gone.append("log")
        else:
            gone += (before - after).keys()
    assert [one for at, one in enumerate(gone) if at == 0 or gone[at - 1] != one] == [
        "frames", "OK", "NotDecidable", "log", "NotOK",
    ]  # fmt: skip
    assert {one["sequence"] for one in place.on_disk()} == set(range(undelivered, undelivered + 100))
    place.ledger.close()


def test_frames_of_bad_and_undelivered_results_outlive_those_of_good_ones(tmp_path: Path) -> None:
    place = Place.on(tmp_path / "state", tmp_path / "results")
    place.inspect(40, frame_bytes=1000)
    place.deliver()
    place.clock.advance(3600)
    place.inspect(40, frame_bytes=1000)
    place.clock.advance(3600)
    assert place.frames.shed() == 40 - 2 - 1, "the OK ones of the first hour"
    assert place.frames.shed() == 3, "all of the second are not delivered: so the rest of the first"
    assert place.frames.shed() == 40
    assert place.frames.shed() == 0
    place.ledger.close()


@pytest.mark.parametrize("by", ["result_id", "image", "sha256"])
def test_what_a_person_has_reviewed_is_kept_as_long_as_what_is_bad(tmp_path: Path, by: str) -> None:
    labels = tmp_path / "labels.csv"
    place = Place.on(tmp_path / "state", tmp_path / "results", min_free_mb=0, keep_gb=1.0, reviewed=str(labels))
    place.inspect(100, frame_bytes=100)
    place.deliver()
    place.clock.advance(7200)
    place.inspect(1)
    reviewed = [place.ledger.after(0)[at] for at in (2, 7)]
    image = msgspec.json.decode(reviewed[0].body)["image"]
    values = {"result_id": reviewed[0].result_id, "image": image["name"], "sha256": image["sha256"]}
    labels.write_text(f"{by},label\n{values[by]},OK\n")
    alike = 100 if by == "sha256" else 1  # the frames of this test are all the same bytes
    place.tend()
    assert place.frames.shed() == (0 if by == "sha256" else 100 - 5 - 2 - 1) or by == "sha256"
    place.retention._results.short = place.retention._state.short = True
    for _ in range(3):
        place.retention._folder.shed("2026-11-01")
        place.ledger.shed("OK", place.retention._reviewed.spare)
        place.ledger.shed("NotDecidable", place.retention._reviewed.spare)
    left = {one.sequence for one in place.ledger.after(0)}
    assert reviewed[0].sequence in left
    assert (reviewed[1].sequence in left) == (alike > 1)
    place.ledger.close()


@in_own_mounts
def test_state_and_results_on_separate_disks(tmp_path: Path) -> None:
    state, results = volume(tmp_path / "state", 48), volume(tmp_path / "results", 200)
    place = Place.on(state, results)
    for _ in range(200):
        place.inspect(100)
        place.deliver()
        place.tend()
        place.clock.advance(600)
    facts = os.statvfs(state)
    assert facts.f_bavail * facts.f_frsize / (1 << 20) > 16, "the ledger gave pages back to its disk"
    assert place.health.counters()["retention_removed"] > 1000
    kinds = {dict(labels)["kind"] for name, labels in place.health.by_kind() if name == "retention_removed"}
    assert kinds == {"ledger"}
    assert len(place.on_disk()) == 20_000, "there was room for the files"
    place.ledger.close()


def test_what_is_free_in_the_ledger_goes_back_before_more_history_goes(tmp_path: Path) -> None:
    place = Place.on(tmp_path / "state", tmp_path / "results", per_image=False)
    place.inspect(4000)
    place.deliver()
    place.ledger._pruning._drop_these(list(range(1, 3000)))  # as by age: their pages stay in the file
    before = len(place.ledger.after(0, 10_000, 1 << 30))
    place.retention._state.short = True
    assert place.retention._make_room(0)
    assert len(place.ledger.after(0, 10_000, 1 << 30)) == before
    assert "retention_removed" not in place.health.counters()
    while place.ledger.give_back():
        pass
    place.retention._make_room(0)
    assert len(place.ledger.after(0, 10_000, 1 << 30)) < before, "nothing is free any more: now history goes"
    place.ledger.close()


def test_dead_letters_are_the_last_of_the_ledger_to_make_room(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = Place.on(tmp_path / "state", tmp_path / "results", min_free_mb=0, per_image=False)
    place.inspect(600)
    for stored in place.ledger.after(0, 40):
        place.ledger.bury("mqtt", stored, "too large")
    place.deliver()
    place.inspect(10)  # and these wait
    gone = []
    while True:
        before = len(place.ledger.after(0, 10_000, 1 << 30)), len(place.ledger.dead())
        if not place.retention._shed_ledger(0):
            break
        gone.append(tuple(was - now for was, now in zip(
            before, (len(place.ledger.after(0, 10_000, 1 << 30)), len(place.ledger.dead())), strict=True
        )))  # fmt: skip
    assert gone[-1] == (0, 40)
    assert all(letters == 0 for _, letters in gone[:-1])
    assert [one.sequence for one in place.ledger.after(0)] == list(range(601, 611))
    kinds = {dict(labels)["kind"]: n for (name, labels), n in place.health.by_kind().items() if labels}
    assert kinds == {"ledger": 600, "dead_letters": 40}
    assert [record.levelname for record in caplog.records if "dead_letters_removed" in record.message] == ["WARNING"]
    place.ledger.close()


def test_dead_letters_grow_old_by_days_of_their_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = Place.on(tmp_path / "state", tmp_path / "results", min_free_mb=0, keep_days=90, keep_dead_days=365)
    place.inspect(2)
    place.ledger.bury("mqtt", place.ledger.after(0)[0], "too large")
    place.clock.advance(timedelta(days=364.9).total_seconds())
    place.tend()
    assert len(place.ledger.dead()) == 1
    place.clock.advance(timedelta(days=0.2).total_seconds())
    place.tend()
    assert place.ledger.dead() == []
    assert "1 are older than results.keep_dead_days (365)" in caplog.text
    place.ledger.close()


@in_own_mounts
def test_of_two_disks_the_one_is_named_that_nothing_can_be_removed_from(tmp_path: Path) -> None:
    """The far end is away; the ledger's disk is filled by somebody else. On the other one there is room."""
    state, results = volume(tmp_path / "state", 96), volume(tmp_path / "results", 200)
    place = Place.on(state, results)
    place.inspect(100)
    place.ledger.advance("mqtt", 60)
    with (state / "somebody-elses").open("wb") as hog:
        os.posix_fallocate(hog.fileno(), 0, 70 << 20)
    place.tend()
    detail = place.health.problems()["retention_exhausted"]
    assert f"the disk of state ({state})" in detail
    assert "results.directory" not in detail
    assert "40 results are not delivered everywhere" in detail
    assert len(place.on_disk()) == 100
    with (results / "somebody-elses").open("wb") as hog:  # and now the other one as well
        os.posix_fallocate(hog.fileno(), 0, 170 << 20)
    place.clock.advance(61)
    place.tend()
    assert f"results.directory ({results}) and of state ({state})" in place.health.problems()["retention_exhausted"]
    for hogged in (state, results):
        (hogged / "somebody-elses").unlink()
    place.tend()
    assert place.health.problems() == {}
    place.ledger.close()


def test_by_age_the_file_of_what_is_not_delivered_everywhere_stays(tmp_path: Path) -> None:
    place = Place.on(tmp_path / "state", tmp_path / "results", keep_days=5)
    place.inspect(20)
    place.ledger.advance("mqtt", 20)
    place.clock.advance(timedelta(days=1).total_seconds())
    place.inspect(20)
    place.ledger.close()
    place.clock.advance(timedelta(days=40).total_seconds())
    place.ledger = Ledger.open(place.state, place.clock)  # another process: for the first its own day is not old
    place.ledger.register(["files", "mqtt"])
    place.files = JsonFiles(place.config, place.clock)
    reviewed, belief = Reviewed(place.config), kept(place.state, place.clock, Health())
    place.retention = Retention(
        place.config, place.state, place.ledger, place.files, [], place.clock, Health(), reviewed, belief
    )
    place.tend()
    assert {one["sequence"] for one in place.on_disk()} == {one.sequence for one in place.ledger.after(0)}
    assert {one["sequence"] for one in place.on_disk()} == set(range(21, 41))
    assert len(list(place.results.glob("*.jsonl"))) == 1
    place.ledger.close()


def test_what_waits_is_not_looked_through_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The far end is away and space is short: a thousand files for each that may go, every minute."""
    place = Place.on(tmp_path / "state", tmp_path / "results", min_free_mb=0)
    place.inspect(500)
    place.ledger.advance("mqtt", 3)
    read = []
    monkeypatch.setattr(shedding, "_head", lambda path: read.append(path) or HEAD(path))
    assert place.retention._folder.shed("2026-11-01") == shedding.Shed("OK", 2, 2 * 4096)
    assert place.retention._folder.shed("2026-11-01") == shedding.Shed("NotDecidable", 1, 4096)
    assert place.retention._folder.shed("2026-11-01") is None
    assert len(read) < 15
    place.ledger.close()


HEAD = shedding._head


def test_of_logs_only_our_own_go(tmp_path: Path) -> None:
    place = Place.on(tmp_path / "state", tmp_path / "results", min_free_mb=0, per_image=False)
    place.inspect(20)
    place.deliver()
    mine = [place.results / name for name in ("2026-11-01-for-the-audit.jsonl", "2026-11-01.notes.jsonl")]
    for path in mine:
        path.write_text("a technician's")
    while place.retention._folder.shed("2026-11-02"):
        pass
    assert sorted(place.results.glob("*.jsonl")) == mine
    place.ledger.close()


def test_keep_gb_bounds_files_and_ledger(tmp_path: Path) -> None:
    place = Place.on(tmp_path / "state", tmp_path / "results", keep_gb=0.01, min_free_mb=0)
    for _ in range(60):
        place.inspect(100)
        place.deliver()
        place.clock.advance(600)
        place.tend()
    assert place.retention._folder.size() < 10.5e6
    assert place.ledger.used_bytes() < 10.5e6
    place.ledger.close()


def test_nothing_left_to_remove_is_said_once_and_is_over_when_delivered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = Place.on(tmp_path / "state", tmp_path / "results", keep_gb=0.0004, min_free_mb=0)
    place.inspect(200)
    for _ in range(3):
        place.tend()
        place.clock.advance(100)
    assert "retention_exhausted" in place.health.problems()
    assert [record.message for record in caplog.records if "exhausted" in record.message][1:] == []
    assert len(place.on_disk()) == 200
    place.deliver()
    place.clock.advance(100)
    place.tend()
    assert "retention_exhausted" not in place.health.problems()
    assert len(place.on_disk()) < 100
    place.ledger.close()


def test_by_age_also_for_a_station_that_runs_once(tmp_path: Path) -> None:
    place = Place.on(tmp_path / "state", tmp_path / "results", keep_days=5)
    place.inspect(100)
    place.deliver()
    place.clock.advance(timedelta(days=40).total_seconds())
    place.inspect(10)
    place.deliver()
    place.ledger.close()
    again = Ledger.open(place.state, place.clock)
    again.register(["files", "mqtt"])
    files = JsonFiles(place.config, place.clock)
    reviewed, belief = Reviewed(place.config), kept(place.state, place.clock, Health())
    retention = Retention(place.config, place.state, again, files, [], place.clock, Health(), reviewed, belief)
    while retention.tend():
        pass
    assert len(place.on_disk()) == 10
    again.close()


def test_a_running_agent_keeps_its_limit(tmp_path: Path) -> None:
    station = Station(tmp_path / "s")
    station.settings["results"]["keep_gb"] = 0.0001
    station.write()
    for number in range(40):
        station.put(f"{number}.png", flat_png(10 if number < 30 else 250))
    assert station.once().returncode == 0
    bad = {one["result_id"] for one in station.files() if one["evaluation"] == "NotOK"}
    with station.running():
        until(lambda: len(list(station.results.glob("*/*.json"))) <= 24, "files to be removed")
    left = {one["result_id"] for one in station.files()}
    assert bad == left, "the good ones went"
    assert len(station.lines()) == 40, "the record stays"


def test_where_others_fill_the_disk_the_problem_stands_and_does_not_come_and_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place.on(tmp_path / "state", tmp_path / "results", min_free_mb=500)
    free = [520.0]  # below the margin; inspection goes on
    monkeypatch.setattr("agent.app.retention.free_mb", lambda _folder: free[0])
    seen: list[bool] = []
    place.health.on_change(lambda: seen.append("retention_exhausted" in place.health.problems()))
    for _ in range(10):
        place.inspect(60)
        place.deliver()
        place.tend()
    assert seen == [True]
    free[0] = 2000.0
    place.tend()
    place.clock.advance(2)
    place.tend()
    assert seen == [True, False]
    place.ledger.close()
