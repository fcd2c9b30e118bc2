"""A clock that is wrong at a boot takes no history with it; one that is right goes on removing what is old."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from agent.app.archives import known_to
from agent.app.belief import Belief, slack_of
from agent.app.retention import Retention, Reviewed
from agent.clock import ManualClock, iso_utc, synchronised
from agent.config import FolderConfig, ResultsConfig
from agent.delivery.json_files import JsonFiles
from agent.health import Health
from agent.ledger import Ledger
from agent.sources.archive import TIDY_S, Archive
from agent.sources.camera.store import FrameStore, Keep
from tests.support.bundles import flat_png
from tests.support.results import an_entry
from tests.support.station import Station as Agent
from tests.support.station import until

NOW = datetime(2026, 11, 22, 10, tzinfo=timezone.utc)
WRONG = [datetime(2036, 1, 1, tzinfo=timezone.utc), datetime(1970, 1, 1, tzinfo=timezone.utc)]


@dataclass
class Station:
    """Its ledger, files and retention, booted at times that may be wrong."""

    folder: Path
    number: int = 0
    kept: bool = False  #: by a time service
    health: Health = field(default_factory=Health)

    def boot(self, at: datetime) -> None:
        self.clock, self.health = ManualClock(at), Health()
        config = ResultsConfig(directory=str(self.folder / "results"), min_free_mb=0, keep_days=90)
        self.ledger = Ledger.open(self.folder / "state", self.clock)
        self.ledger.register(["files"])
        self.files = JsonFiles(config, self.clock)
        newest = next(iter(self.ledger.after(self.ledger.last_sequence - 1, 1)), None)
        self.belief = Belief(
            self.folder / "state",
            slack_of(90),
            self.clock,
            self.health,
            newest.created_at if newest else None,
            lambda: self.kept,
        )
        arguments = config, self.folder / "state", self.ledger, self.files, [], self.clock, self.health
        self.retention = Retention(*arguments, Reviewed(config), self.belief)

    def inspect(self) -> None:
        self.number += 1
        created_at = iso_utc(self.clock.now())
        self.ledger.commit([an_entry(self.number, name=f"{self.number}.png", created_at=created_at)])
        batch = self.ledger.after(self.ledger.cursor("files"))
        self.files.deliver(batch)
        self.ledger.advance("files", batch[-1].sequence)

    def work(self, days: float, hours: float = 1) -> None:
        """Tend every hour, and now and then inspect."""
        for _ in range(int(days * 24 / hours)):
            self.tend()
            self.clock.advance(hours * 3600)
        self.inspect()

    def tend(self) -> None:
        while self.retention.tend():
            pass

    def stop(self) -> None:
        self.ledger.close()

    def history(self) -> tuple[int, int, int]:
        """Results in the ledger, files, daily logs."""
        results = self.folder / "results"
        return (
            len(self.ledger.after(0, 10_000)),
            len(list(results.glob("*/*.json"))),
            len(list(results.glob("*.jsonl"))),
        )


@pytest.fixture
def station(tmp_path: Path) -> Station:
    """With a history of 60 days, and stopped since NOW."""
    one = Station(tmp_path)
    one.boot(NOW - timedelta(days=60))
    for _ in range(60):
        one.work(1, hours=6)
    assert one.history() == (60, 60, 60)
    one.stop()
    return one


@pytest.mark.parametrize("wrong", WRONG)
def test_one_boot_with_a_wrong_clock_removes_nothing(
    station: Station, wrong: datetime, caplog: pytest.LogCaptureFixture
) -> None:
    station.boot(wrong)
    station.inspect()  # before retention has looked for the first time
    station.work(0.9)
    assert station.history()[:2] == (62, 62)
    assert list(station.health.problems()) == ["clock_doubted"]
    assert len([record for record in caplog.records if "clock_doubted" in record.message]) == 1
    station.stop()
    station.boot(NOW + timedelta(days=1))  # with a new battery
    station.work(2)
    assert station.history()[:2] == (63, 63)
    assert station.health.problems() == {}
    station.stop()


def test_a_wrong_clock_at_every_boot_is_never_the_one_to_compare_with(station: Station) -> None:
    for _ in range(5):
        station.boot(WRONG[0])
        station.work(0.5)
        station.stop()
    station.boot(WRONG[0])
    station.tend()
    assert station.history()[0] == 65
    station.stop()


def test_a_time_service_is_believed_at_once_and_the_problem_is_over(station: Station) -> None:
    station.boot(NOW + timedelta(days=365))
    station.inspect()
    station.tend()
    assert station.history()[:2] == (61, 61)
    station.kept = True
    station.clock.advance(60)
    station.tend()
    assert station.history() == (1, 1, 1)
    assert station.health.problems() == {}
    station.stop()


def test_what_goes_on_for_a_day_of_running_time_is_believed_also_over_restarts(station: Station) -> None:
    """A station without a time service that stood still for a year, and is switched off every night."""
    for day in range(3):
        station.boot(NOW + timedelta(days=365 + day))
        station.work(8 / 24)
        assert station.history()[0] == 61 + day
        station.stop()
    station.boot(NOW + timedelta(days=369))
    station.inspect()
    station.work(0.3)
    assert station.history() == (5, 5, 4)
    assert station.health.problems() == {}
    station.stop()


def test_an_absence_of_a_week_needs_no_explanation(station: Station) -> None:
    station.boot(NOW + timedelta(days=6.5))
    station.tend()
    assert station.health.problems() == {}
    station.clock.advance(33 * 86_400)
    station.inspect()
    station.tend()
    assert station.history()[0] < 61, "what is old goes"
    station.stop()


def test_a_clock_set_while_the_agent_runs_is_doubted_too(station: Station) -> None:
    station.boot(NOW)
    station.tend()
    station.clock._now += timedelta(days=3650)
    station.clock.advance(3600)
    station.tend()
    assert station.history()[0] == 60
    assert list(station.health.problems()) == ["clock_doubted"]
    station.clock._now -= timedelta(days=3650)
    station.clock.advance(60)
    station.tend()
    assert station.health.problems() == {}
    station.stop()


def test_a_new_station_without_a_time_service_is_no_problem(tmp_path: Path) -> None:
    station = Station(tmp_path)
    station.boot(NOW)
    station.work(0.5)
    assert station.health.problems() == {}
    station.stop()


def test_results_of_1970_made_before_a_restart_are_not_old(station: Station) -> None:
    """No time service until after the second start: their time is wrong, and the order tells how old they are."""
    station.boot(WRONG[1])
    station.inspect()
    station.stop()
    station.kept = True
    station.boot(NOW + timedelta(days=1))
    station.inspect()
    station.tend()
    assert station.history() == (62, 62, 62)
    station.clock.advance(120 * 86_400)
    station.inspect()
    station.stop()
    station.boot(NOW + timedelta(days=121))
    station.tend()
    assert station.history() == (1, 1, 1), "and in the end they are"
    station.stop()


@pytest.mark.parametrize("body", [b"", b"{", b'{"seen": "yesterday"}', b"[1]"])
def test_a_file_that_cannot_be_read_is_made_up_for_by_the_newest_result(station: Station, body: bytes) -> None:
    (station.folder / "state" / "clock.json").write_bytes(body)
    station.boot(WRONG[0])
    station.tend()
    assert station.history() == (60, 60, 60)
    assert list(station.health.problems()) == ["clock_doubted"]
    station.stop()


def test_a_leap_since_the_last_look_is_seen_in_the_instant_of_removing(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    belief = Belief(tmp_path, slack_of(90), clock, Health(), iso_utc(NOW), lambda: False)
    assert belief.before(30) is None, "nobody has looked yet"
    assert belief.look()
    clock.advance(40 * 86_400)
    assert belief.before(30) == NOW + timedelta(days=10)
    leap(clock, 3650)
    assert belief.before(30) is None
    leap(clock, -3650)
    assert belief.before(30) == NOW + timedelta(days=10)


def test_what_was_made_while_the_clock_was_behind_is_not_old_because_it_was_set_right(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    belief = Belief(tmp_path, slack_of(90), clock, Health(), iso_utc(NOW), lambda: True)
    assert belief.look()
    clock.advance(3600)
    leap(clock, 60)
    assert belief.look(), "a time service keeps it"
    assert belief.before(30) == NOW, "since then this agent runs"
    clock.advance(30 * 86_400)
    assert belief.before(30) == clock.now() - timedelta(days=30)


def leap(clock: ManualClock, days: float) -> None:
    """Set, while the machine runs on."""
    clock._now += timedelta(days=days)


def test_an_archive_and_frames_outlive_a_leap_between_two_looks(tmp_path: Path) -> None:
    clock, health = ManualClock(datetime.now(timezone.utc)), Health()
    ledger = Ledger.open(tmp_path / "state", clock)
    ledger.register([])
    belief = Belief(tmp_path / "state", slack_of(90), clock, health, iso_utc(clock.now()), lambda: False)
    assert belief.look()
    folder = tmp_path / "archive"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"x")
    source = FolderConfig(name="captures", path="/nowhere", archive=str(folder), archive_keep_days=30)
    archive = Archive(source, 0, known_to(ledger, clock, lambda _begin, _end: (), belief.before), clock, health)
    frames = FrameStore(tmp_path / "f", "torch", "png", Keep(90, 10**9), clock, health, before=belief.before)
    frames.save(b"x", "png", clock.now())
    clock.advance(TIDY_S + 1)
    leap(clock, 3650)
    archive.tend()
    frames.tidy()
    assert len([*folder.iterdir(), *(tmp_path / "f").rglob("*.png")]) == 2
    leap(clock, -3650)
    clock.advance(100 * 86_400)
    belief.look()
    archive.tend()
    frames.tidy()
    assert not [*folder.iterdir(), *(tmp_path / "f").rglob("*.png")]
    ledger.close()


def test_frames_are_kept_while_the_clock_is_not_believed(tmp_path: Path) -> None:
    clock, believed = ManualClock(NOW), [False]
    frames = FrameStore(
        tmp_path,
        "torch",
        "png",
        Keep(90, 10**9),
        clock,
        Health(),
        before=lambda days: clock.now() - timedelta(days=days) if believed[0] else None,
    )
    frames.save(b"x", "png", clock.now())
    clock.advance(3650 * 86_400)
    frames.tidy()
    assert len(list(tmp_path.rglob("*.png"))) == 1
    believed[0] = True
    frames.tidy()
    assert list(tmp_path.rglob("*.png")) == []


def test_a_running_agent_whose_clock_has_leapt_ten_years(tmp_path: Path) -> None:
    """Whether a time service keeps this machine's clock is not ours to choose: either is told by what stays."""
    agents = Agent(tmp_path)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "clock.json").write_text('{"seen": "2016-11-22T10:00:00.000Z"}')
    agents.results.mkdir()
    old = agents.results / "2016-01-01.jsonl"
    old.touch()
    with agents.running():
        if synchronised():
            until(lambda: not old.exists(), "what is old to go")
        else:
            until(lambda: "clock_doubted: the clock says 20" in agents.log.read_text(), "it to be said")
            agents.put("A.png", flat_png(100))
            agents.wait_for(1)
            assert old.exists()
    assert "Traceback" not in agents.log.read_text()
