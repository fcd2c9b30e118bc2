"""The current job: images belong to the job that was current when they arrived, whatever happens meanwhile."""

from __future__ import annotations

import errno
import json
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.app import jobs as jobs_module
from agent.app.commands import RefusedError
from agent.app.jobs import FILE, Jobs
from agent.clock import ManualClock, SystemClock
from agent.errors import UsageError
from agent.frame import Identity
from tests.station.test_durability import schema
from tests.support.bundles import flat_png
from tests.support.caller import Caller
from tests.support.mjpeg import mjpeg_camera
from tests.support.mosquitto import Mosquitto, broker_and_listener
from tests.support.station import Station, until

START = datetime(2026, 11, 22, 10, tzinfo=timezone.utc)
A, B, NONE = Identity("A17", "J9", "w1"), Identity("B4", "J9", None), Identity()


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


def opened(folder: Path, clock: ManualClock, *sources: str) -> Jobs:
    return Jobs.open(folder, sources or ("captures",), clock, stamped_from=lambda _moment: None)


def test_an_image_has_the_job_that_was_current_when_it_arrived(tmp_path: Path, clock: ManualClock) -> None:
    jobs = opened(tmp_path, clock)
    for job in (A, B, NONE):
        clock.advance(10)
        jobs.set(None, job)
    for restarted in (jobs, opened(tmp_path, clock)):
        found = [restarted.at("captures", at(seconds)) for seconds in (0, 9.9, 10, 15, 19.9, 20, 29, 30, 99)]
        assert found == [NONE, NONE, A, A, A, B, B, NONE, NONE]


@pytest.mark.parametrize("restart", [False, True])
def test_a_file_just_before_a_change_has_the_job_before_and_one_just_after_its_answer_the_new_one(
    tmp_path: Path, restart: bool
) -> None:
    """The kernel stamps files by its last tick, so that their times lag behind the clock by some milliseconds."""
    jobs = Jobs.open(tmp_path, ["captures"], SystemClock())
    wanted: list[tuple[Path, Identity]] = []
    for number in range(60):
        before, after = (A, B) if number % 2 else (B, A)
        jobs.set(None, before)
        wanted.append((tmp_path / f"{number}-before", before))
        wanted[-1][0].touch()
        jobs.set(None, after)
        wanted.append((tmp_path / f"{number}-after", after))
        wanted[-1][0].touch()
    if restart:
        jobs = Jobs.open(tmp_path, ["captures"], SystemClock())
    arrived = [datetime.fromtimestamp(path.stat().st_ctime_ns / 1e9, timezone.utc) for path, _ in wanted]
    assert [jobs.at("captures", moment) for moment in arrived] == [job for _, job in wanted]


def test_a_job_of_one_source_and_a_job_of_all(tmp_path: Path, clock: ManualClock) -> None:
    jobs = opened(tmp_path, clock, "one", "two")
    jobs.set(None, A)
    clock.advance(10)
    jobs.set("two", B)
    assert [jobs.at(name, at(11)) for name in ("one", "two")] == [A, B]
    assert [jobs.at(name, at(5)) for name in ("one", "two")] == [A, A]
    clock.advance(10)
    jobs.set(None, NONE)
    assert [jobs.current(name) for name in ("one", "two")] == [None, None]
    assert [jobs.at(name, at(15)) for name in ("one", "two")] == [A, B]
    with pytest.raises(RefusedError, match="'three' is no source of this station; sources are one, two"):
        jobs.set("three", A)


def test_the_same_job_again_changes_nothing(tmp_path: Path, clock: ManualClock) -> None:
    jobs = opened(tmp_path, clock)
    jobs.set(None, A)
    clock.advance(60)
    jobs.set(None, A)
    current = jobs.current("captures")
    assert current is not None
    assert current["since"] == "2026-11-22T10:00:00.000Z"
    assert (tmp_path / FILE).read_bytes().count(b"\n") == 1


@pytest.mark.parametrize("restart", [False, True])
def test_after_the_clock_was_set_back_what_arrives_has_the_newest_job(
    tmp_path: Path, clock: ManualClock, caplog: Any, restart: bool
) -> None:
    jobs = opened(tmp_path, clock)
    jobs.set(None, A)
    clock.advance(7200)
    jobs.set(None, B)
    clock.advance(-3600)
    if restart:
        jobs = opened(tmp_path, clock)
    assert jobs.at("captures", clock.now()) == B
    assert jobs.at("captures", at(60)) == A
    assert "clock_set_back" in caplog.text
    clock.advance(60)
    jobs.set(None, A)
    clock.advance(60)
    for later in (jobs, opened(tmp_path, clock)):
        assert later.at("captures", clock.now()) == A
        assert later.at("captures", clock.now() - timedelta(seconds=90)) == B


def test_after_the_clock_was_set_forward_every_image_keeps_its_job(tmp_path: Path, clock: ManualClock) -> None:
    jobs = opened(tmp_path, clock)
    jobs.set(None, A)
    clock.advance(10**8)
    assert jobs.at("captures", at(5)) == jobs.at("captures", clock.now()) == A
    jobs.set(None, B)
    assert (jobs.at("captures", at(5)), jobs.at("captures", clock.now())) == (A, B)


@pytest.mark.parametrize("torn", [b'{"at": "2026-11-22T10:', b"\xff\xfe", b"[]\n", b'{"at": "yesterday"}\n'])
def test_what_a_power_cut_tore_off_never_counted(tmp_path: Path, clock: ManualClock, torn: bytes) -> None:
    opened(tmp_path, clock).set(None, A)
    with (tmp_path / FILE).open("ab") as file:
        file.write(torn)
    clock.advance(10)
    jobs = opened(tmp_path, clock)
    assert jobs.at("captures", clock.now()) == A
    jobs.set(None, B)
    assert opened(tmp_path, clock).at("captures", clock.now()) == B
    assert [json.loads(line)["part_id"] for line in (tmp_path / FILE).read_text().splitlines()] == ["A17", "B4"]


def test_a_job_that_cannot_be_kept_is_refused_and_the_one_before_goes_on(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = opened(tmp_path, clock)
    jobs.set(None, A)

    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RefusedError, match=r"cannot be kept .*No space left on device.*the one before goes on"):
        jobs.set(None, B)
    monkeypatch.undo()
    assert jobs.at("captures", at(1)) == opened(tmp_path, clock).at("captures", at(1)) == A


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, clock: ManualClock) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(UsageError, match=r"jobs\.jsonl: Is a directory; make it writable"):
        opened(tmp_path, clock)


def test_history_is_bounded_and_what_lies_before_it_is_unknown_not_guessed(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "KEEP", 10)
    jobs = opened(tmp_path, clock, "busy", "quiet")
    jobs.set(None, Identity("first"))
    for number in range(25):
        clock.advance(1)
        jobs.set("busy", Identity(str(number)))
    assert (tmp_path / FILE).read_bytes().count(b"\n") <= 21
    for each in (jobs, opened(tmp_path, clock, "busy", "quiet")):
        assert each.at("busy", at(25)) == Identity("24")
        assert each.at("busy", at(20)) == Identity("19")
        assert each.at("busy", at(0.5)) == NONE
        assert each.at("quiet", at(25)) == Identity("first")


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([None, "a", "b"]), st.sampled_from([A, B, NONE])), max_size=30
    )
)
def test_a_restart_changes_no_answer(tmp_path_factory: Any, steps: list[tuple[int, str | None, Identity]]) -> None:
    folder, clock = tmp_path_factory.mktemp("state"), ManualClock(START)
    jobs, expected, current = opened(folder, clock, "a", "b"), [], {"a": NONE, "b": NONE}
    for pause, source, job in steps:
        clock.advance(pause + 1)
        jobs.set(source, job)
        current.update({name: job for name in ("a", "b") if source in (None, name)})
        expected.append((clock.now(), dict(current)))
        if pause == 3:
            jobs = opened(folder, clock, "a", "b")
    for moment, told in expected:
        assert {name: jobs.at(name, moment) for name in ("a", "b")} == told


# --- through the running agent ---


def ids(result: dict[str, Any]) -> tuple[str | None, str | None, str | None]:
    return result["part_id"], result["job_id"], result["weld_id"]


def by_name(station: Station) -> dict[str, tuple[str | None, str | None, str | None]]:
    return {one["image"]["name"]: ids(one) for one in station.lines()}


def with_commands(folder: Path, broker: Mosquitto) -> Station:
    mqtt = {"host": broker.host, "port": broker.port, "commands": ["job"]}
    return Station(folder, mqtt=mqtt)


def test_by_command_and_sidecar_and_name_go_before_it(tmp_path: Path) -> None:
    with broker_and_listener(tmp_path / "broker", "#") as (broker, heard):
        station = with_commands(tmp_path / "station", broker)
        station.settings["sources"][0].update(name_pattern=r"(?P<part_id>[A-Z]\d+)_(?P<frame>\d+)", incomplete_s=0.5)
        station.write()
        with station.running(), Caller(broker.port, station.topic) as mes:
            mes.reach()
            answer = mes.ask("job", {"part_id": "B4", "job_id": 12, "weld_id": "w7"})
            assert answer["ok"], answer
            since = answer["answer"]["captures"].pop("since")
            assert answer["answer"] == {"captures": {"part_id": "B4", "job_id": "12", "weld_id": "w7"}}
            station.put("A1_0001.json", b'{"weld_id": "w1"}')
            station.put("A1_0001.png", flat_png(1))
            station.put("odd.png", flat_png(2))
            station.put("cut.png", flat_png(3)[:60])
            station.wait_for(3)
            refused = mes.ask("job", {"part_id": ""})
            assert not refused["ok"]
            elsewhere = mes.ask("job", {"part_id": "C", "source": "torch"})
            assert "'torch' is no source of this station; sources are captures" in elsewhere["error"]
            cleared = mes.ask("job", {"part_id": None, "job_id": None, "weld_id": None})
            assert cleared["answer"] == {"captures": None}
            station.put("nothing.png", flat_png(4))
            results = station.wait_for(4)
    assert by_name(station) == {
        "A1_0001.png": ("A1", "12", "w1"),
        "odd.png": ("B4", "12", "w7"),
        "cut.png": ("B4", "12", "w7"),
        "nothing.png": (None, None, None),
    }
    unknown = [one["image"]["name"] for one in results if "identity_unknown" in [why["code"] for why in one["reasons"]]]
    assert unknown == ["nothing.png"]
    statuses = [json.loads(one.payload) for one in heard.messages if one.topic.endswith("/status") and one.payload]
    for status in statuses:
        jsonschema.validate(status, schema("status"))
    shown = [status["sources"][0]["job"] for status in statuses if status["sources"]]
    assert [one for one, before in zip(shown, [{}, *shown], strict=False) if one != before] == [
        None,
        {"part_id": "B4", "job_id": "12", "weld_id": "w7", "since": since},
        None,
    ]


def test_a_backlog_keeps_its_jobs_over_a_full_disk_and_a_kill(tmp_path: Path) -> None:
    """Images that wait while the job changes, while nothing is inspected, and while the agent is gone."""
    with broker_and_listener(tmp_path / "broker", "#") as (broker, _):
        station = with_commands(tmp_path / "station", broker)
        station.settings["results"]["min_free_mb"] = 10**9
        station.write()
        agent = station.start()
        try:
            until(lambda: station.log.exists() and b"disk_low" in station.log.read_bytes(), "the disk to be low")
            station.put("before.png", flat_png(1))
            with Caller(broker.port, station.topic) as mes:
                mes.reach()
                for part in ("A", "B", "C"):
                    assert mes.ask("job", {"part_id": part, "job_id": "J"})["ok"]
                    for number in range(8):  # more than the queue holds: some were read by now, most not looked at
                        station.put(f"{part}{number}.png", flat_png(number))
        finally:
            agent.kill()
            agent.wait()
        assert station.lines() == []
        station.put("after.png", flat_png(2))
        station.settings["results"]["min_free_mb"] = 0
        station.write()
        with station.running(), Caller(broker.port, station.topic) as mes:
            station.wait_for(26)
            mes.reach()
            assert mes.ask("job", {"part_id": "D", "job_id": "J"})["ok"]
            station.put("D.png", flat_png(3))
            station.wait_for(27)
    expected = {f"{part}{number}.png": (part, "J", None) for part in "ABC" for number in range(8)}
    others = {"before.png": (None, None, None), "after.png": ("C", "J", None), "D.png": ("D", "J", None)}
    assert by_name(station) == {**expected, **others}


def test_the_time_that_counts_is_the_stations_not_the_cameras(tmp_path: Path) -> None:
    """A camera whose clock is a day behind: file times that a client carries over, a time in the name."""
    with broker_and_listener(tmp_path / "broker", "#") as (broker, _):
        station = with_commands(tmp_path / "station", broker)
        with station.running(), Caller(broker.port, station.topic) as mes:
            mes.reach()
            for part in ("A", "B"):
                assert mes.ask("job", {"part_id": part})["ok"]
            aside = station.root / "aside.png"
            aside.write_bytes(flat_png(1))
            os.utime(aside, (1.7e9, 1.7e9))
            aside.rename(station.captures / "20231114-221320.png")
            station.wait_for(1)
    (result,) = station.lines()
    assert (result["part_id"], result["captured_at"][:10]) == ("B", "2023-11-14")


def test_frames_of_a_camera_belong_to_the_job_of_their_moment(tmp_path: Path) -> None:
    with broker_and_listener(tmp_path / "broker", "#") as (broker, _), mjpeg_camera() as camera:
        mqtt = {"host": broker.host, "port": broker.port, "commands": ["job"]}
        sources = [{"type": "camera", "name": "torch", "url": camera.url, "fps": 10}]
        station = Station(tmp_path / "station", mqtt=mqtt, sources=sources)
        with station.running(), Caller(broker.port, station.topic) as mes:
            station.wait_for(3)
            mes.reach()
            answers = []
            for part in ("A", "B"):
                answers.append(mes.ask("job", {"part_id": part, "source": "torch"}))
                station.wait_for(len(station.lines()) + 5)
        results = station.lines()
    first, second = (answer["answer"]["torch"]["since"] for answer in answers)
    assert {one["part_id"] for one in results} == {None, "A", "B"}
    for one in results:
        expected = None if one["captured_at"] < first else "A" if one["captured_at"] < second else "B"
        near = any(abs(seconds(one["captured_at"]) - seconds(since)) <= 0.02 for since in (first, second))
        assert one["part_id"] == expected or near, one


def seconds(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
