"""An archive that nobody empties: by age, by size, by space; what is undelivered or of interest is kept."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import config
from agent.app.archives import known_to, open_since
from agent.clock import ManualClock, days_ago, iso_utc
from agent.config import FolderConfig
from agent.errors import ConfigError, RetryError
from agent.health import Health
from agent.ledger import Ledger
from agent.sources import archive as housekeeping
from agent.sources import archived
from agent.sources.archive import TIDY_S, Archive, Known
from tests.support.bundles import flat_png
from tests.support.results import an_entry
from tests.support.station import Station, until
from tests.support.volumes import in_own_mounts, volume

DAY_S = 86_400.0
KB = 1000 / 1e9  #: in the unit of archive_keep_gb


def put(folder: Path, name: str, kilobytes: int = 4, after: int = 0) -> int:
    """A file that came into the archive later than ``after`` (ns); when."""
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(os.urandom(kilobytes * 1024))
    while (came := target.stat().st_ctime_ns) <= after:  # the kernel's clock ticks every 4 ms
        target.touch()
    return came


@dataclass
class Place:
    """An archive with its housekeeping, without the thread."""

    folder: Path
    open_since: datetime | None = None
    interesting: Collection[str] = ()
    believed: bool = True
    health: Health = field(default_factory=Health)
    clock: ManualClock = field(default_factory=lambda: ManualClock(datetime.now(timezone.utc)))
    last: int = 0  #: when the newest file came

    def before(self, days: float) -> datetime | None:
        return self.clock.now() - timedelta(days=days) if self.believed else None

    def keeping(self, *, days: int | None = None, gb: float | None = None, floor_mb: int = 0) -> Archive:
        source = FolderConfig(
            name="captures", path="/nowhere", archive=str(self.folder), archive_keep_days=days, archive_keep_gb=gb
        )
        known = Known(lambda: self.open_since, lambda _begin, _end: self.interesting, self.before)
        return Archive(source, floor_mb, known, self.clock, self.health)

    def put(self, *names: str, kilobytes: int = 4) -> None:
        for name in names:
            self.last = put(self.folder, name, kilobytes, self.last)

    def there(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if not path.is_dir()}

    def size(self) -> int:
        return sum(path.lstat().st_blocks * 512 for path in self.folder.rglob("*") if not path.is_dir())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "archive").mkdir()
    return Place(tmp_path / "archive")


def tend(archive: Archive) -> int:
    rounds = 0
    while archive.tend():
        rounds += 1
        assert rounds < 1000
    return rounds


# --- by age ---


def test_what_is_older_than_keep_days_goes_with_its_sidecar_and_what_is_not_an_image_stays(place: Place) -> None:
    place.put("2026/a.png", "2026/a.png.json", "2026/b.png", "2026/b.json", "c.PNG", "notes.txt", "alone.json")
    archive = place.keeping(days=30)
    place.clock.advance(29 * DAY_S)
    tend(archive)
    assert len(place.there()) == 7
    place.clock.advance(2 * DAY_S)
    tend(archive)
    assert place.there() == {"notes.txt", "alone.json"}
    assert place.health.by_kind()["archive_removed", (("kind", "age"),)] == 3


def test_the_time_in_the_archive_counts_and_not_that_of_the_camera(place: Place) -> None:
    place.put("a.png")
    os.utime(place.folder / "a.png", (0, 0))
    tend(place.keeping(days=1))
    assert place.there() == {"a.png"}


@pytest.mark.parametrize("most", [10_000, 3])
def test_a_clock_that_is_not_believed_removes_nothing_by_age(
    place: Place, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archived, "MOST", most)
    place.put(*(f"{number}.png" for number in range(10)))
    place.clock.advance(3650 * DAY_S)
    place.believed = False
    archive = place.keeping(days=30)
    tend(archive)
    assert len(place.there()) == 10
    place.believed = True
    place.clock.advance(TIDY_S)
    tend(archive)
    assert not place.there()


def test_what_came_while_the_clock_was_wrong_has_no_age(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive from before the first release: its clock began in 1970 or 2000."""
    place.put("a.png")
    monkeypatch.setattr(archived, "KNOWN_FROM_NS", place.last + 1)
    place.clock.advance(3650 * DAY_S)
    tend(place.keeping(days=30))
    assert place.there() == {"a.png"}
    tend(place.keeping(days=30, gb=KB))
    assert not place.there()


def test_folders_that_stay_empty_go(place: Place) -> None:
    place.put("2026-11-01/10/a.png", "2026-11-02/b.png")
    (place.folder / "2026-11-03").mkdir()
    archive = place.keeping(days=30)
    place.clock.advance(31 * DAY_S)
    tend(archive)
    assert (place.folder / "2026-11-01/10").is_dir(), "somebody may be about to move an image there"
    for folder in ("2026-11-01/10", "2026-11-01", "2026-11-02"):
        os.utime(place.folder / folder, (0, 0))
    for _ in range(2):
        place.clock.advance(TIDY_S)
        tend(archive)
        os.utime(place.folder / "2026-11-01", (0, 0)) if (place.folder / "2026-11-01").exists() else None
    assert [path.name for path in place.folder.iterdir()] == ["2026-11-03"], "it is too new"


# --- by size ---


def test_above_keep_gb_the_oldest_go_and_those_of_interest_last(place: Place) -> None:
    names = [f"day/{number}.png" for number in range(20)]
    place.put(*names, kilobytes=64)
    place.interesting = {names[0], names[3]}
    tend(place.keeping(gb=10 * 65.6 * KB))
    left = place.there()
    assert {names[0], names[3]} < left
    assert left - {names[0], names[3]} == set(names[-len(left) + 2 :])
    assert len(left) == 9, "to a twentieth below the limit"
    tend(place.keeping(gb=2 * 65.6 * KB))
    assert place.there() == {names[3]}, "those of interest go, too, when nothing else is left"


def test_an_image_whose_name_was_taken_is_known_by_the_name_it_had(place: Place) -> None:
    place.put("a_1.png", "b.png", "c.png", kilobytes=64)
    place.interesting = {"a.png"}
    tend(place.keeping(gb=2.2 * 65.6 * KB))
    assert place.there() == {"a_1.png", "c.png"}


def test_without_a_limit_nothing_goes_and_below_it_neither(place: Place) -> None:
    place.put("a.png", "b.png")
    before = place.there()
    tend(place.keeping(gb=1))
    place.clock.advance(1000 * DAY_S)
    tend(place.keeping())
    assert place.there() == before


def test_it_looks_every_ten_minutes(place: Place) -> None:
    archive = place.keeping(gb=KB)
    tend(archive)
    place.put("a.png")
    place.clock.advance(TIDY_S - 1)
    tend(archive)
    assert place.there()
    place.clock.advance(1)
    tend(archive)
    assert not place.there()


@settings(max_examples=60, deadline=None)
@given(
    images=st.lists(st.tuples(st.integers(1, 40), st.booleans(), st.booleans()), max_size=14),
    limit=st.integers(1, 400),
    open_from=st.integers(0, 14),
    most=st.sampled_from([1, 2, 5, 10_000]),
)
def test_whatever_lies_there(
    tmp_path_factory: pytest.TempPathFactory,
    images: list[tuple[int, bool, bool]],
    limit: int,
    open_from: int,
    most: int,
) -> None:
    """Images of (kB, of interest, with a sidecar) in the order they came; from one on their results are undelivered."""
    folder = tmp_path_factory.mktemp("archive")
    place, names, sizes = Place(folder), [], []
    came: list[int] = []
    for number, (kilobytes, _, sidecar) in enumerate(images):
        names.append(f"{number % 3}/{'odd ' * (number % 2)}{number}.png")
        if sidecar:
            place.put(f"{names[-1]}.json")
        place.put(names[-1], kilobytes=kilobytes)
        came.append(place.last)
        beside = folder / f"{names[-1]}.json"
        sizes.append(sum(one.stat().st_blocks * 512 for one in (folder / names[-1], beside) if one.exists()))
    place.interesting = {name for name, (_, interest, _) in zip(names, images, strict=True) if interest}
    if open_from < len(images):
        place.open_since = datetime.fromtimestamp(came[open_from] // 10**9, timezone.utc)
        free = [at // 10**9 < came[open_from] // 10**9 for at in came]
    else:
        free = [True] * len(images)
    before = sum(sizes)
    assert before == place.size()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archived, "MOST", most)
        tend(archive := place.keeping(gb=limit * KB))
    left = place.there()
    kept = [name in left for name in names]
    assert all(stays for stays, may in zip(kept, free, strict=True) if not may), "an undelivered one went"
    if before <= limit * 1000:
        assert all(kept)
        return
    order = sorted(range(len(names)), key=lambda n: (names[n] in place.interesting, n))
    going = [n for n in order if free[n]]
    size, expected = before, set(names)
    for n in going:
        if size <= limit * 1000 * 0.95:
            break
        size -= sizes[n]
        expected.discard(names[n])
    assert {name for name in left if name.endswith(".png")} == expected
    assert place.size() == size, "a sidecar was left, or went alone"
    assert ("archive_not_tidied:captures" in place.health.problems()) == (size > limit * 1000)
    place.open_since = None
    place.clock.advance(TIDY_S)
    tend(archive)
    assert place.size() <= limit * 1000
    assert "archive_not_tidied:captures" not in place.health.problems()


# --- what others know ---


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 11, 1, tzinfo=timezone.utc))


@pytest.fixture
def ledger(tmp_path: Path, clock: ManualClock) -> Iterator[Ledger]:
    ledger = Ledger.open(tmp_path / "state", clock)
    ledger.register(["files", "mqtt"])
    yield ledger
    ledger.close()


def committed(ledger: Ledger, moment: datetime) -> None:
    ledger.commit([an_entry(ledger.last_sequence + 1, created_at=iso_utc(moment))])


def test_the_first_undelivered_result_tells_what_is_open(ledger: Ledger, clock: ManualClock) -> None:
    begin = clock.now()
    assert open_since(ledger, clock) is None
    for minute in range(10):
        committed(ledger, begin + timedelta(minutes=minute))
    clock.advance(3600)
    ledger.advance("mqtt", 10)
    ledger.advance("files", 5)
    assert open_since(ledger, clock) == begin + timedelta(minutes=5) - timedelta(days=1), (
        "the clock of a share may be off"
    )
    ledger.advance("files", 10)
    assert open_since(ledger, clock) is None


def test_with_a_clock_that_was_set_back_all_that_is_undelivered_may_be_anywhere(
    ledger: Ledger, clock: ManualClock
) -> None:
    begin = clock.now()
    committed(ledger, begin)
    committed(ledger, begin - timedelta(days=9000))
    clock.advance(60)
    since = open_since(ledger, clock)
    assert since is not None
    assert since < begin - timedelta(days=9000)
    for sink in ("files", "mqtt"):
        ledger.advance(sink, 2)
    committed(ledger, begin + timedelta(days=3650))
    since = open_since(ledger, clock)
    assert since is not None
    assert since < begin - timedelta(days=9000)


def test_results_that_are_not_ok_are_of_interest(ledger: Ledger, clock: ManualClock, place: Place) -> None:
    for name, evaluation in (("bad.png", "NotOK"), ("odd.png", "NotDecidable"), ("good.png", "OK")):
        moment = iso_utc(place.clock.now())
        ledger.commit([an_entry(ledger.last_sequence + 1, name=name, created_at=moment, evaluation=evaluation)])
        place.put(name, kilobytes=64)
    for sink in ("files", "mqtt"):
        ledger.advance(sink, 3)
    known = known_to(ledger, place.clock, ledger.interesting, days_ago(place.clock))
    source = FolderConfig(name="captures", path="/nowhere", archive=str(place.folder), archive_keep_gb=2.2 * 65.6 * KB)
    tend(Archive(source, 0, known, place.clock, place.health))
    assert place.there() == {"bad.png", "odd.png"}


def test_a_ledger_that_cannot_answer_removes_nothing(place: Place) -> None:
    place.put("a.png")
    archive = place.keeping(gb=KB)

    def fails() -> datetime | None:
        raise RetryError("the disk")

    object.__setattr__(archive._known, "open_since", fails)
    with pytest.raises(RetryError):
        archive.tend()
    assert place.there() == {"a.png"}


# --- by space, and trouble ---


@in_own_mounts
def test_a_disk_that_is_full_already_is_made_free_before_results_have_to_go(tmp_path: Path) -> None:
    small = volume(tmp_path / "volume", 200)
    place = Place(small / "archive")
    for number in range(100):
        place.put(f"day/{number:03}.png", kilobytes=1024)
    with (small / "somebody-elses").open("wb", buffering=0) as hog, contextlib.suppress(OSError):
        while hog.write(bytes(4096)):
            pass
    place.interesting = {"day/000.png"}
    tend(place.keeping(days=1000, floor_mb=16))
    facts = os.statvfs(small)
    free = facts.f_bavail * facts.f_frsize >> 20
    assert 16 + 3 * 16 <= free <= 16 + 3 * 16 + 2
    assert "day/000.png" in place.there()
    assert place.health.by_kind()["archive_removed", (("kind", "space"),)] == 100 - len(place.there())


def test_what_cannot_be_removed_is_a_problem_until_it_can(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.put(*(f"{number}.png" for number in range(100)))
    tries = 0

    def refuse(_root: bytes, _image: archived.Image) -> int | None:
        nonlocal tries
        tries += 1
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(housekeeping, "remove", refuse)
        archive = place.keeping(gb=KB)
        tend(archive)
    assert "Operation not permitted" in place.health.problems()["archive_not_tidied:captures"]
    assert tries == housekeeping.TRIES
    place.clock.advance(TIDY_S)
    tend(archive)
    assert not place.there()
    assert not place.health.problems()


def test_an_archive_that_is_not_there_yet_is_no_problem(tmp_path: Path) -> None:
    place = Place(tmp_path / "archive")
    tend(place.keeping(days=1, gb=1, floor_mb=1 << 30))
    assert not place.health.problems()


# --- hostile ---


def test_links_lead_nowhere_and_any_name_goes(place: Place, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim.png").write_bytes(b"x" * 5000)
    (place.folder / "linked").symlink_to(outside)
    (place.folder / "victim.png").symlink_to(outside / "victim.png")
    os.mkfifo(place.folder / "fifo.png")
    hostile = [b"a\nb.png", b"\xff\xfe.png", b"-rf.png", b"x" * 251 + b".png", b"%s[bold].png"]
    for name in hostile:
        (place.folder / os.fsdecode(name)).write_bytes(b"x" * 5000)
    tend(place.keeping(gb=KB))
    assert place.there() == {"victim.png", "fifo.png"}
    assert (place.folder / "linked").is_symlink()
    assert (outside / "victim.png").exists()


def test_a_folder_that_becomes_a_link_between_the_look_and_the_removing_leads_nowhere(
    place: Place, tmp_path: Path
) -> None:
    place.put("day/a.png")
    facts = (place.folder / "day/a.png").stat()
    (place.folder / "day").rename(tmp_path / "elsewhere")
    (place.folder / "day").symlink_to(tmp_path / "elsewhere")
    image = archived.Image(facts.st_ctime_ns, b"day/a.png", facts.st_ino)
    assert archived.remove(os.fsencode(place.folder), image) is None
    assert (tmp_path / "elsewhere/a.png").exists()


def test_only_what_was_looked_at_goes(place: Place) -> None:
    place.put("a.png")
    facts = (place.folder / "a.png").stat()
    place.put("a.png")
    image = archived.Image(facts.st_ctime_ns, b"a.png", facts.st_ino)
    assert archived.remove(os.fsencode(place.folder), image) is None
    assert place.there() == {"a.png"}


# --- configuration and station ---


def parsed(archive: str | None, **keys: object) -> config.AgentConfig:
    plain: dict[str, object] = {
        "station": {"name": "cam-07"},
        "state": "/srv/weldwatch/state",
        "sources": [{"type": "folder", "name": "captures", "path": "/srv/c/captures", "archive": archive, **keys}],
        "results": {"directory": "/srv/weldwatch/results"},
    }
    import yaml

    return config.parse(yaml.safe_dump(plain))


@pytest.mark.parametrize(
    ("archive", "holds"), [("/srv/c", r"sources\[0\]\.path"), ("/srv/weldwatch", "state"), ("/srv/r", "rejected")]
)
def test_an_archive_with_a_limit_holds_nothing_else(archive: str, holds: str) -> None:
    parsed(archive, rejected="/srv/r/rejected")
    with pytest.raises(ConfigError, match=rf"sources\[0\]\.archive.*{holds}"):
        parsed(archive, rejected="/srv/r/rejected", archive_keep_days=30)


def test_a_limit_wants_an_archive() -> None:
    with pytest.raises(ConfigError, match="archive_keep_gb: no archive that it could limit"):
        parsed(None, archive_keep_gb=5)


def test_a_station_keeps_its_archive_within_the_limit(tmp_path: Path) -> None:
    source = {"type": "folder", "name": "captures", "path": str(tmp_path / "s/captures"), "settle_s": 0.1}
    source |= {"after": "archive", "archive": str(tmp_path / "s/archive")}
    station = Station(tmp_path / "s", sources=[source])
    station.put("a-bad.png", flat_png(250))
    station.once()
    for number in range(9):
        station.put(f"day/{number}.png", flat_png(20))
    station.once()
    archive = tmp_path / "s/archive"
    assert len([*archive.rglob("*.png")]) == 10, "without a limit all are kept"
    source["archive_keep_gb"] = 5 * 4096 / 1e9
    station.write()
    removed: Callable[[], bool] = lambda: b"archived images removed" in station.log.read_bytes()  # noqa: E731
    with station.running():
        until(removed, "the archive to be tidied")
    left = {path.name for path in archive.rglob("*.png")}
    assert left == {"a-bad.png", "6.png", "7.png", "8.png"}
