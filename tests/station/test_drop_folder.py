"""The drop folder: what settles there, signed, is installed and judges; all else is put aside with its reason."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from agent.app.bundles import drop
from agent.app.bundles.drop import INCOMPLETE_S, KEPT, SETTLE_S, DropFolder
from agent.app.bundles.life import Bundles
from agent.clock import ManualClock
from agent.health import Health
from agent.model.store import SUFFIX, Store, resolve
from tests.support.bundles import flat_png
from tests.support.judge import bundles, settings
from tests.support.mosquitto import Listener, Mosquitto
from tests.support.signed import Plant
from tests.support.station import Station, until


class Dropped:
    """A drop folder beside a station's bundles, with hands of its own on the clock."""

    def __init__(self, root: Path) -> None:
        self.root, self.plant, self.folder = root, Plant(root / "plant"), root / "drop"
        self.folder.mkdir()
        self.clock, self.health = ManualClock(datetime(2026, 11, 22, tzinfo=timezone.utc)), Health()
        section = {"initial": self.plant.bundle("1.0.0"), "trusted_keys": self.plant.keys, "drop_folder": self.folder}
        self.bundles, _ = bundles(root, self.clock, **section)
        self.config = settings(root, **section).bundle
        self.drop = self.again(self.bundles)

    def again(self, judged_by: Bundles) -> DropFolder:
        """As after a restart."""
        return DropFolder(self.config, judged_by.store, judged_by.activate, self.health, self.clock)

    def put(self, source: Path, name: str = "new.pipeline") -> Path:
        return source.rename(self.folder / name)

    def look(self, after: float = 0.0) -> None:
        self.clock.advance(after)
        self.drop.look()

    def settle(self) -> None:
        self.look()
        self.look(SETTLE_S)

    @property
    def version(self) -> str:
        return self.bundles.loaded.model.facts.version

    def there(self) -> dict[str, list[str]]:
        return {
            name: sorted(one.name for one in (self.folder / name).iterdir())
            for name in ("installed", "refused", ".taken")
        }


@pytest.fixture
def dropped(tmp_path: Path) -> Iterator[Dropped]:
    made = Dropped(tmp_path)
    yield made
    made.bundles.stop()


def test_a_signed_bundle_that_settles_judges(dropped: Dropped) -> None:
    dropped.put(dropped.plant.bundle("2.0.0"))
    dropped.look()
    assert dropped.version == "1.0.0", "it may still be on its way"
    dropped.look(SETTLE_S)
    assert dropped.version == "2.0.0"
    assert dropped.there() == {"installed": ["new.pipeline"], "refused": [], ".taken": []}
    dropped.put(dropped.plant.bundle("3.0.0"))
    dropped.settle()
    assert (dropped.version, dropped.there()["installed"]) == ("3.0.0", ["new.pipeline", "new_1.pipeline"])


def test_several_are_taken_in_the_order_of_their_time(dropped: Dropped) -> None:
    for version, name, at in (("2.0.0", "z.pipeline", 1000), ("3.0.0", "a.pipeline", 2000)):
        os.utime(dropped.put(dropped.plant.bundle(version), name), (at, at))
    dropped.settle()
    assert dropped.version == "3.0.0"


@pytest.mark.parametrize(("key", "said"), [(None, "is not signed"), ("stranger", "signed by nobody that is trusted")])
def test_only_what_a_trusted_key_signed(dropped: Dropped, key: str | None, said: str) -> None:
    dropped.put(dropped.plant.bundle("2.0.0", key=key))
    dropped.settle()
    assert dropped.version == "1.0.0"
    assert dropped.there()["refused"] == ["new.pipeline", "new.pipeline.reason.txt"]
    reason = (dropped.folder / "refused" / "new.pipeline.reason.txt").read_text()
    assert said in reason
    assert (reason.startswith("new.pipeline: "), reason.count("\n")) == (True, 1)
    assert dropped.health.counters()["bundles_dropped_refused"] == 1


def test_what_does_not_pass_its_self_test_is_refused(dropped: Dropped) -> None:
    from agent.bundle.manifest import Golden

    dropped.put(dropped.plant.bundle("2.0.0", golden=[Golden(image="golden/0.png", outputs={"fp32": [0.5, 0.5]})]))
    dropped.settle()
    assert dropped.version == "1.0.0"
    assert "self-test failed" in (dropped.folder / "refused" / "new.pipeline.reason.txt").read_text()


def test_a_copy_on_its_way_is_not_taken(dropped: Dropped) -> None:
    data = dropped.plant.bundle("2.0.0").read_bytes()
    file = dropped.folder / "new.pipeline"
    for part in range(1, 10):
        file.write_bytes(data[: len(data) * part // 10])
        dropped.settle()
        dropped.look(INCOMPLETE_S - SETTLE_S - 1)
    assert dropped.there() == {"installed": [], "refused": [], ".taken": []}
    with file.open("r+b") as preallocated:  # as a share does it: the size first, then the bytes
        preallocated.truncate(len(data))
    dropped.settle()
    assert dropped.there()["refused"] == []
    file.write_bytes(data)
    dropped.settle()
    assert dropped.version == "2.0.0"


def test_what_never_becomes_whole_is_refused_in_the_end(dropped: Dropped) -> None:
    (dropped.folder / "half.pipeline").write_bytes(dropped.plant.bundle("2.0.0").read_bytes()[:-100])
    dropped.settle()
    assert dropped.there()["refused"] == []
    dropped.look(INCOMPLETE_S - SETTLE_S)
    assert dropped.there()["refused"] == ["half.pipeline", "half.pipeline.reason.txt"]


def test_links_fifos_and_folders(dropped: Dropped) -> None:
    target = dropped.plant.bundle("2.0.0")
    (dropped.folder / "link.pipeline").symlink_to(target)
    os.mkfifo(dropped.folder / "fifo.pipeline")
    (dropped.folder / "folder.pipeline").mkdir()
    (dropped.folder / "readme.txt").write_text("hello")
    (dropped.folder / ".hidden.pipeline").write_bytes(target.read_bytes())
    dropped.settle()
    assert dropped.version == "1.0.0"
    assert [one for one in dropped.there()["refused"] if not one.endswith(".txt")] == ["fifo.pipeline", "link.pipeline"]
    assert target.exists(), "a link is moved, not what it leads to"
    assert {one.name for one in dropped.folder.iterdir()} >= {"folder.pipeline", "readme.txt", ".hidden.pipeline"}


def test_what_cannot_be_moved_is_not_worked_at_and_keeps_nobody_from_it(
    dropped: Dropped, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped.put(dropped.plant.bundle("2.0.0"))
    dropped.look()
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.name == "new.pipeline":
            raise PermissionError(1, "Operation not permitted", "new.pipeline")
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        for _ in range(3):
            with pytest.raises(PermissionError):
                dropped.look(SETTLE_S)
        assert (dropped.version, dropped.bundles.store.names()) == ("1.0.0", [])
        dropped.put(dropped.plant.bundle("3.0.0"), "other.pipeline")
        for after in (0.0, SETTLE_S):
            with pytest.raises(PermissionError):
                dropped.look(after)
        assert dropped.version == "3.0.0"
    dropped.look()
    assert dropped.version == "2.0.0"


@pytest.mark.parametrize("letter", ["x", "\N{SNOWMAN}"])
def test_the_longest_name_keeps_nobody_from_it(dropped: Dropped, letter: str) -> None:
    longest = letter * ((255 - len(SUFFIX)) // len(letter.encode())) + SUFFIX
    for _ in range(2):
        (dropped.folder / longest).symlink_to(dropped.root)
        dropped.put(dropped.plant.bundle("2.0.0"))
        dropped.settle()
    assert dropped.version == "2.0.0"
    refused = dropped.there()["refused"]
    assert [len(refused), {one[0] for one in refused}, dropped.there()[".taken"]] == [4, {letter}, []]


@pytest.mark.parametrize("name", [".taken", "installed", "refused"])
def test_a_link_in_place_of_a_folder_leads_nowhere(dropped: Dropped, name: str) -> None:
    others = dropped.root / "results"
    others.mkdir()
    (others / "result.json").write_text("{}")
    (dropped.folder / name).symlink_to(others)
    (dropped.folder / "a.pipeline").symlink_to(others)
    for _ in range(2):
        with pytest.raises(NotADirectoryError):
            dropped.look()
    assert [one.name for one in others.iterdir()] == ["result.json"]
    (dropped.folder / name).unlink()
    dropped.look()
    assert "a.pipeline" in dropped.there()["refused"]


def test_a_folder_that_is_away_is_a_problem_until_it_is_back(dropped: Dropped, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drop, "LOOK_S", 0.02)
    dropped.folder.rename(dropped.root / "away")
    dropped.drop.start()
    until(lambda: drop.TROUBLE in dropped.health.problems(), "the problem")
    (dropped.root / "away").rename(dropped.folder)
    until(lambda: drop.TROUBLE not in dropped.health.problems(), "its end")
    dropped.drop.stop()


def test_the_oldest_that_lie_there_go(dropped: Dropped) -> None:
    for number in range(KEPT + 2):
        file = dropped.folder / f"{number:02d}.pipeline"
        file.write_bytes(b"no bundle")
        dropped.settle()
        dropped.look(INCOMPLETE_S)
    left = dropped.there()["refused"]
    assert len(left) == 2 * KEPT
    assert left[0] == "02.pipeline"


def test_after_a_kill_it_goes_on_where_it_was(dropped: Dropped) -> None:
    (dropped.folder / ".taken").mkdir()
    dropped.plant.bundle("2.0.0").rename(dropped.folder / ".taken" / "new.pipeline")
    dropped.again(dropped.bundles).look()
    assert (dropped.version, dropped.there()["installed"]) == ("2.0.0", ["new.pipeline"])


def test_a_running_station_takes_it_and_says_so(tmp_path: Path) -> None:
    plant = Plant(tmp_path / "plant")
    (tmp_path / "drop").mkdir()
    section = {
        "initial": str(plant.bundle("1.0.0")), "trusted_keys": str(plant.keys), "drop_folder": str(tmp_path / "drop")
    }  # fmt: skip
    with Mosquitto(tmp_path / "broker") as broker:
        station = Station(tmp_path / "s", bundle=section, mqtt={"host": broker.host, "port": broker.port})
        with Listener(broker.port, f"{station.topic}/status") as status, station.running():
            plant.bundle("2.0.0").rename(tmp_path / "drop" / "new.pipeline")
            status.until(lambda all_: bool(all_) and all_[-1]["bundle"]["version"] == "2.0.0")


def test_a_fresh_station_that_trusts_keys_starts_with_what_was_dropped(tmp_path: Path) -> None:
    plant = Plant(tmp_path / "plant")
    (tmp_path / "drop").mkdir()
    section = {"trusted_keys": str(plant.keys), "drop_folder": str(tmp_path / "drop")}
    station = Station(tmp_path / "s", bundle=section)
    station.put("a.png", flat_png(180))
    refused = station.once()
    assert (refused.returncode, "weld-demo" in refused.stderr) == (2, True)
    assert "is not signed" in refused.stderr.splitlines()[-1]
    assert "put one into bundle.drop_folder" in refused.stderr.splitlines()[-1]
    plant.bundle("2.0.0").rename(tmp_path / "drop" / "new.pipeline")
    assert station.once().returncode == 0
    assert [one["model"]["version"] for one in station.lines()] == ["2.0.0"]


DROP_FOR_EVER = """
import sys
from pathlib import Path
from agent.app.bundles import drop
from agent.app.bundles.drop import DropFolder
from agent.clock import SystemClock
from agent.health import Health
from tests.support.bundles import flat_png
from tests.support.judge import bundles, settings
drop.SETTLE_S = 0.0
root = Path(sys.argv[1])
section = {"initial": root / "plant" / "brightness-1.0.0.pipeline", "trusted_keys": root / "plant" / "keys",
           "drop_folder": root / "drop"}
made, health = bundles(root, **section)
folder = DropFolder(settings(root, **section).bundle, made.store, made.activate, health, SystemClock())
print("ready", flush=True)
while True:
    folder.look()
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_loses_no_dropped_bundle(tmp_path: Path) -> None:
    plant, rounds = Plant(tmp_path / "plant"), 20
    plant.bundle("1.0.0")
    folder = tmp_path / "drop"
    folder.mkdir()
    chance = random.Random(5)
    for number in range(rounds):
        name = f"brightness-2.{number}.0"
        with subprocess.Popen([sys.executable, "-c", DROP_FOR_EVER, str(tmp_path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            plant.bundle(f"2.{number}.0").rename(folder / f"{name}.pipeline")
            time.sleep(chance.uniform(0.0, 0.5))  # the kill is to come at any moment
            process.send_signal(signal.SIGKILL)
        places = [
            place
            for place in (folder, folder / ".taken", folder / "installed")
            if (place / f"{name}.pipeline").exists()
        ]
        assert len(places) == 1
    with subprocess.Popen([sys.executable, "-c", DROP_FOR_EVER, str(tmp_path)], stdout=subprocess.PIPE) as process:
        try:  # all twenty, where every kill came before its first sync was through
            until(lambda: (folder / "installed" / f"{name}.pipeline").exists(), "the last one", 150)
        finally:
            process.kill()
    store = Store(tmp_path / "state")
    pointer = store.pointer()
    assert pointer is not None
    assert resolve(pointer.active, store).exists()
    assert pointer.active == name
    assert not list((folder / "refused").iterdir())
