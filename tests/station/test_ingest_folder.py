"""Folders through the whole agent: bursts, slow writers, kills, bad images, folders that go and come; JSON and MQTT."""

from __future__ import annotations

import hashlib
import json
import os
import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support import mutations
from tests.support.bundles import flat_png, png
from tests.support.mosquitto import Listener, Mosquitto, broker_and_listener
from tests.support.station import Station, memory_mb, until
from tests.support.writers import write_in_chunks

TINY = [flat_png(level, (16, 16)) for level in range(256)]
UNBOUNDED = ("max_queued_messages 0",)  #: mosquitto drops for a slow subscriber otherwise


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def names_of(results: list[dict[str, Any]]) -> Counter[str]:
    return Counter(one["image"]["name"] for one in results)


def heard_all(listener: Listener, count: int) -> list[dict[str, Any]]:
    """What a subscriber got, once that is ``count`` messages; counting is all that is done at each of them."""
    with listener.changed:
        assert listener.changed.wait_for(lambda: len(listener.messages) >= count, 120), len(listener.messages)
    return listener.json()


def with_mqtt(folder: Path, broker: Mosquitto, **source: Any) -> Station:
    station = Station(folder, mqtt={"host": broker.host, "port": broker.port})
    station.settings["sources"][0].update(source)
    station.write()
    return station


@pytest.mark.slow
def test_thirty_thousand_files_at_once_in_folders_of_that_moment(tmp_path: Path) -> None:
    """More than the kernel's queue of events holds (16,384 by default)."""
    files = {f"shift{number % 3}/part{number // 100}/{number}.png": TINY[number % 256] for number in range(30_000)}
    topic = "weldwatch/plant/site/area/line/cam-07"
    with broker_and_listener(tmp_path / "broker", f"{topic}/result", UNBOUNDED) as (broker, listener):
        station = with_mqtt(tmp_path / "station", broker)
        with station.running() as process:
            handles = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
            begin = time.monotonic()
            for name, data in files.items():
                path = station.captures / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            results = station.wait_for(len(files), 240)
            rate = len(files) / (time.monotonic() - begin)
            heard = heard_all(listener, len(files))
            assert memory_mb(process.pid, "VmHWM") < 200
            assert len(list(Path(f"/proc/{process.pid}/fd").iterdir())) <= handles + 4
    print(f"{rate:.0f} images a second")  # noqa: T201  # the figure, for whoever runs it with -s
    assert names_of(results) == names_of(heard) == Counter(dict.fromkeys(files, 1))
    assert [one["sequence"] for one in heard] == list(range(1, len(files) + 1))
    assert all(one["image"]["sha256"] == sha256(files[one["image"]["name"]]) for one in results)


@pytest.mark.slow
def test_five_hundred_files_by_eight_slow_writers(tmp_path: Path) -> None:
    """Pauses shorter and longer than ``settle_s``, a third by reopen-and-append: no half image is inspected."""
    noise = random.Random(1)
    files = {}
    for number in range(500):
        level = number % 240
        rows = [[level + noise.randrange(10) for _ in range(64)] for _ in range(48 + number % 40)]
        files[f"{number}.png"] = png(_gray(rows))
    topic = "weldwatch/plant/site/area/line/cam-07"
    with broker_and_listener(tmp_path / "broker", f"{topic}/result") as (broker, listener):
        station = with_mqtt(tmp_path / "station", broker)
        with station.running():
            write_in_chunks(station.captures, files, (0.01, 0.05, 0.15))
            station.wait_for(len(files))
            heard = heard_all(listener, len(files))
        results = station.lines()
    assert {one["image"]["name"]: one["image"]["sha256"] for one in results} == {
        name: sha256(data) for name, data in files.items()
    }
    assert len(results) == len(heard) == len(files)
    for one in results:
        level = int(Path(one["image"]["name"]).stem) % 240
        assert one["evaluation"] in ("OK", "NotOK")
        assert one["probability"][1] * 255 == pytest.approx(level + 4.5, abs=1)


def _gray(rows: list[list[int]]) -> Any:
    import numpy as np

    return np.array(rows, np.uint8)


@pytest.mark.slow
def test_twenty_kills_while_two_thousand_files_arrive(tmp_path: Path) -> None:
    """Each file has one result, and lies in the end where it belongs: good ones archived, bad ones rejected."""
    kills, archive, rejected = 20, tmp_path / "archive", tmp_path / "rejected"
    files = {f"part{n % 7}/{n}.png": flat_png(n % 256) if n % 10 else b"no image at all" for n in range(2000)}
    topic = "weldwatch/plant/site/area/line/cam-07"
    with broker_and_listener(tmp_path / "broker", f"{topic}/result", UNBOUNDED) as (broker, listener):
        policy = {"after": "archive", "archive": str(archive), "rejected": str(rejected), "incomplete_s": 0.3}
        station = with_mqtt(tmp_path / "station", broker, **policy)

        def arrive() -> None:
            for name, data in files.items():
                path = station.captures / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(data)
                time.sleep(kills * 1.0 / len(files))  # spread over the kills

        camera, chance = threading.Thread(target=arrive), random.Random(20)
        camera.start()
        for _ in range(kills):
            agent = station.start()
            time.sleep(chance.uniform(0.4, 1.8))  # a kill comes at any moment, not after an event
            agent.kill()
            agent.wait()
        camera.join()
        with station.running():
            results = station.wait_for(len(files))
            heard = listener.until(lambda all_: len({one["result_id"] for one in all_}) == len(files))
            until(lambda: not [path for path in station.captures.rglob("*") if path.is_file()], "an empty folder")
    assert names_of(results) == Counter(dict.fromkeys(files, 1))
    assert {one["result_id"] for one in heard} == {one["result_id"] for one in results}
    assert list(dict.fromkeys(one["sequence"] for one in heard)) == list(range(1, len(files) + 1))
    good = {name: data for name, data in files.items() if data != b"no image at all"}
    assert tree(archive) == good
    moved = tree(rejected)
    assert {name for name in moved if name.endswith(".png")} == set(files) - set(good)
    assert {name for name in moved if name.endswith(".reason.json")} == {
        f"{one}.reason.json" for one in set(files) - set(good)
    }


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_bad_images_of_every_format(tmp_path: Path) -> None:
    """A result each, no stall; no picture whose damage its format shows is OK; the reasons lie in ``rejected``."""
    bad = mutations.corpus()
    assert len(bad) >= 200
    rejected = tmp_path / "rejected"
    topic = "weldwatch/plant/site/area/line/cam-07"
    with broker_and_listener(tmp_path / "broker", f"{topic}/result") as (broker, listener):
        station = with_mqtt(tmp_path / "station", broker, incomplete_s=1.0, rejected=str(rejected))
        with station.running() as process:
            for name, data in bad.items():
                station.put(name, data)
            for suffix, data in mutations.originals().items():
                station.put(f"good.{suffix}", data)
            station.wait_for(len(bad) + len(mutations.FORMS), 30)
            station.put("next.png", flat_png(1))
            results = station.wait_for(len(bad) + len(mutations.FORMS) + 1)
            heard = heard_all(listener, len(results))
            until(lambda: not list(rejected.glob(".weldwatch-*")), "all to be rejected")
            assert process.poll() is None
    assert (
        names_of(results) == names_of(heard) == Counter([*bad, *(f"good.{one}" for one in mutations.FORMS), "next.png"])
    )
    by_name = {one["image"]["name"]: one for one in results}
    for name, one in by_name.items():
        assert (one["evaluation"] == "NotDecidable") == (one["class"] is None), one
        if name in bad and mutations.damage_is_detectable(name, bad[name]):
            assert one["evaluation"] == "NotDecidable", one
    assert {one["evaluation"] for name, one in by_name.items() if name.startswith("good.")} == {"OK"}
    undecided = {name for name, one in by_name.items() if one["evaluation"] == "NotDecidable"}
    assert {path.name for path in rejected.iterdir()} == undecided | {f"{name}.reason.json" for name in undecided}
    for name in undecided:
        reason = json.loads((rejected / f"{name}.reason.json").read_text())
        assert reason["code"] == by_name[name]["reasons"][0]["code"]


NAMES = {
    "newline": b"new\nline.png", "control": b"bell\x07\x1b[31m.png", "not UTF-8": b"caf\xe9\xff.png",
    "255 bytes": b"n" * 251 + b".png", "255 bytes of two": "ä".encode() * 125 + b"a.png",
}  # fmt: skip


def test_what_a_capture_folder_should_not_hold(tmp_path: Path) -> None:
    """Each line of bad input: a result or a clear line of the log, moved to ``rejected``, and the next is inspected."""
    rejected, outside = tmp_path / "rejected", tmp_path / "outside.png"
    outside.write_bytes(flat_png(9))
    whole = {suffix: data for suffix, data in mutations.originals().items() if suffix in ("png", "jpg", "pgm")}
    bad = {
        "huge.pgm": whole["pgm"].replace(b"56 40", b"20000 20000"),
        "zero.png": b"",
        "cut.png": whole["png"][:-20],
        "cut.jpg": whole["jpg"][: len(whole["jpg"]) // 2],
        "pdf.png": b"%PDF-1.7 and so on",
        "gif.jpg": b"GIF89a" + bytes(100),
        "tiny.png": flat_png(3, (15, 15)),
        "tomorrow.png": b"",
    }
    topic = "weldwatch/plant/site/area/line/cam-07"
    with broker_and_listener(tmp_path / "broker", f"{topic}/result") as (broker, listener):
        station = with_mqtt(tmp_path / "station", broker, incomplete_s=1.0, rejected=str(rejected), rescan_s=0.5)
        with station.running():
            (station.captures / "link.png").symlink_to(outside)
            (station.captures / "linked").symlink_to(tmp_path)
            os.mkfifo(station.captures / "fifo.png")
            (station.captures / "folder.png").mkdir()
            for name, data in bad.items():
                (station.captures / name).write_bytes(data)
            os.utime(station.captures / "tomorrow.png", (time.time() + 86_400,) * 2)
            for name in NAMES.values():
                (station.captures / os.fsdecode(name)).write_bytes(flat_png(5))
            station.put("folder.png/inside.png", flat_png(6))
            count = len(bad) + len(NAMES) + 1
            station.wait_for(count, 30)
            station.put("next.png", flat_png(7))
            results = station.wait_for(count + 1)
            heard = heard_all(listener, count + 1)
            until(lambda: len(list(rejected.glob("*.reason.json"))) == len(bad), "all to be rejected")
    assert names_of(results) == names_of(heard)
    verdicts = {one["image"]["name"]: (one["evaluation"], one["reasons"][0]["code"]) for one in results}
    expected = dict.fromkeys(bad, ("NotDecidable", "unreadable_image"))
    expected["huge.pgm"] = ("NotDecidable", "image_too_large")
    expected["tiny.png"] = ("NotDecidable", "image_too_small")
    expected["pdf.png"] = expected["gif.jpg"] = ("NotDecidable", "unsupported_format")
    good = [name.decode(errors="backslashreplace") for name in NAMES.values()]
    expected.update(dict.fromkeys([*good, "folder.png/inside.png", "next.png"], ("OK", "defect_probability")))
    assert verdicts == expected
    said = station.log.read_text()
    for name, why in (
        ("link.png", "a symbolic link, not followed"), ("linked", "a symbolic link, not followed"),
        ("fifo.png", "a FIFO, not opened"), ("folder.png", "a folder under an image's name; looking inside it"),
    ):  # fmt: skip
        assert said.count(f": {name}: {why}") == 1, said
    assert "\x1b" not in said
    assert len(station.files()) == len(results)


def stated(status: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["state"] for one in status["sources"]}


def test_several_folders_that_go_and_come_renames_links_and_names_written_again(tmp_path: Path) -> None:
    away, one, two = tmp_path / "away", tmp_path / "one", tmp_path / "two"
    one.mkdir()
    folders = [
        {"type": "folder", "name": path.name, "path": str(path), "settle_s": 0.1, "rescan_s": 0.5}
        for path in (one, two)
    ]
    first, second = flat_png(10), flat_png(20)
    with Mosquitto(tmp_path / "broker") as broker:
        station = Station(tmp_path / "station", sources=folders, mqtt={"host": broker.host, "port": broker.port})
        with Listener(broker.port, f"{station.topic}/status") as status, station.running():

            def states(**wanted: str) -> None:
                status.until(lambda all_: bool(all_) and stated(all_[-1]) == wanted)

            states(one="watching", two="missing")
            (one / "a.png").write_bytes(first)
            station.wait_for(1)
            two.mkdir()
            (two / "a.png").write_bytes(first)
            station.wait_for(2)
            states(one="watching", two="watching")
            (one / "shift1").mkdir()
            (one / "a.png").rename(one / "shift1" / "a.png")  # under another path, another frame
            station.wait_for(3)
            os.link(one / "shift1" / "a.png", one / "linked.png")
            station.wait_for(4)
            (one / "linked.png").unlink()
            (one / "linked.png").write_bytes(second)
            station.wait_for(5)
            one.rename(away)
            states(one="missing", two="watching")
            (two / "b.png").write_bytes(second)
            station.wait_for(6)
            (away / "c.png").write_bytes(second)
            away.rename(one)  # with all that was inspected, and one file that came meanwhile
            states(one="watching", two="watching")
            results = station.wait_for(7)
            time.sleep(1.2)  # two more scans: nothing is inspected again
        assert len(station.lines()) == 7
    assert [(r["image"]["source"], r["image"]["name"], r["image"]["sha256"]) for r in results] == [
        ("one", "a.png", sha256(first)), ("two", "a.png", sha256(first)), ("one", "shift1/a.png", sha256(first)),
        ("one", "linked.png", sha256(first)), ("one", "linked.png", sha256(second)), ("two", "b.png", sha256(second)),
        ("one", "c.png", sha256(second)),
    ]  # fmt: skip
