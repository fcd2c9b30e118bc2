"""``weldwatch log`` as technicians and machines call it, on results folders as a station leaves them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pytest

from agent import moments
from agent.cli.log import reading
from agent.clock import iso_utc
from agent.errors import UsageError
from tests.support.results import a_result
from tests.support.station import WELDWATCH, until, weldwatch

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)


def line(at: datetime = NOON, evaluation: str = "OK", part: str | None = "A17", name: str = "a.png") -> bytes:
    result = a_result(name, iso_utc(at), evaluation=evaluation, part_id=part, ledger_id="L", sequence=1)
    return msgspec.json.encode(result) + b"\n"


def write(folder: Path, day: str, *lines: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{day}.jsonl"
    with path.open("ab") as file:
        file.writelines(lines)
    return path


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Three days; the last line of the last is still being written."""
    folder = tmp_path / "results"
    for day in range(3):
        at = NOON - timedelta(days=2 - day)
        lines = [line(at, "OK", "A1"), line(at + timedelta(minutes=5), "NotOK", "A2"), line(at + timedelta(hours=1))]
        write(folder, f"{at:%Y-%m-%d}", *lines)
    write(folder, "2026-11-22", line(NOON + timedelta(hours=2), "NotDecidable", None), b'{"schema": "half')
    return folder


def told(*arguments: str | Path) -> list[dict[str, object]]:
    done = weldwatch("log", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(one) for one in done.stdout.splitlines()]


def test_machines_get_every_whole_line_in_order(results: Path) -> None:
    found = told("--directory", results)
    assert len(found) == 10
    assert [one["created_at"] for one in found] == sorted(str(one["created_at"]) for one in found)


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (["--evaluation", "NotOK"], 3),
        (["--part", "A1"], 3),
        (["--since", "2026-11-22T12:05:00Z"], 3),
        (["--since", "2026-11-21", "--evaluation", "OK"], 4),
        (["--since", "2026-11-22T12:05:00.001+00:00", "--part", "A2"], 0),
    ],
)
def test_what_is_asked_for(results: Path, arguments: list[str], count: int) -> None:
    assert len(told("--directory", results, *arguments)) == count


def test_it_reads_with_the_configuration_without_a_ledger_and_writes_nothing(results: Path, tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text(
        f"station: {{name: cam-07, timezone: America/Detroit}}\nstate: {tmp_path}/none\n"
        f"results: {{directory: {results}}}\nsources: [{{type: folder, name: captures, path: {tmp_path}/captures}}]\n"
    )
    for path in (*results.iterdir(), results):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {path: path.stat() for path in (*results.iterdir(), results)}
    # 07:05 in Detroit is 12:05 UTC.
    assert len(told("--config", file, "--since", "2026-11-22T07:05")) == 3
    assert "2026-11-22 09:00:00.000" in weldwatch("log", "--config", file).stdout
    assert {path: path.stat().st_mtime_ns for path in before} == {path: s.st_mtime_ns for path, s in before.items()}
    assert not (tmp_path / "none").exists()


def test_people_see_the_newest_and_are_told_of_more(results: Path) -> None:
    write(results, "2026-11-22", b'way"}\n', *(line(NOON + timedelta(hours=3, seconds=n)) for n in range(60)))
    done = weldwatch("log", "--directory", results)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1 + 50
    assert "the newest 50" in done.stderr
    assert (
        len(weldwatch("log", "--directory", results, "--since", "2026-11-01").stdout.splitlines()) == 1 + 70
    )  # the damaged line has no time


def test_no_name_reaches_the_terminal_as_markup_or_control(tmp_path: Path) -> None:
    write(
        tmp_path / "r", "2026-11-22", line(name="[red]\x1b[2J\u202e\x9b.png", part="\x1b]0;x\x07", evaluation="NotOK")
    )
    for arguments in ((), ("--stats",)):
        out = weldwatch("log", "--directory", tmp_path / "r", *arguments).stdout
        assert not any(c in out for c in "\x1b\x9b\u202e\x07")
    assert "[red]" in weldwatch("log", "--directory", tmp_path / "r").stdout


def test_a_line_of_statistics_is_not_cut_where_no_terminal_is(results: Path) -> None:
    first = weldwatch("log", "--directory", results, "--stats").stdout.splitlines()[0]
    assert len(first) > 80
    assert first.endswith("a second")


def test_a_terminal_that_is_not_utf_8_and_a_line_that_is_damaged(tmp_path: Path) -> None:
    damaged = b'{"half": \xff\xfe}\n'
    write(tmp_path / "r", "2026-11-22", line(part=None, name="grün→.png"), damaged)
    for arguments in (("--json",), ("--stats",), ()):
        for encoding in ("ascii", "utf-8"):
            done = subprocess.run(
                [*WELDWATCH, "log", "--directory", tmp_path / "r", *arguments],
                env={**os.environ, "PYTHONIOENCODING": f"{encoding}:strict"}, capture_output=True, check=False,
            )  # fmt: skip
            assert (done.returncode, done.stderr) == (0, b""), encoding
            if arguments == ("--json",):
                assert done.stdout == (tmp_path / "r" / "2026-11-22.jsonl").read_bytes()


def test_statistics(results: Path) -> None:
    write(results, "2026-11-22", b'way"}\n')
    done = weldwatch("log", "--directory", results, "--since", "2026-11-22", "--stats", "--json")
    numbers = json.loads(done.stdout)
    assert {name: numbers[name] for name in ("results", "OK", "NotOK", "NotDecidable", "not_results")} == {
        "results": 4, "OK": 2, "NotOK": 1, "NotDecidable": 1, "not_results": 0,
    }  # fmt: skip
    assert numbers["not_decidable"] == {"defect_probability": 1}
    assert numbers["per_second"] == pytest.approx(3 / 7200, abs=1e-4)
    assert numbers["timing_ms"]["p99"] == pytest.approx(6.6)
    assert [hour["hour"][11:13] for hour in numbers["hours"]] == ["12", "13", "14"]
    shown = weldwatch("log", "--directory", results, "--stats").stdout
    assert "10 results from 2026-11-20" in shown
    assert "weld-demo 1.0.0" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--directory", "nowhere"], "no results folder here"),
        (["--since", "soon", "--directory", "."], "--since: found 'soon'"),
        (["--follow", "--stats", "--directory", "."], "one or the other"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], said: str) -> None:
    done = weldwatch("log", *arguments)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert said in done.stderr


# --- as it grows ---


@pytest.fixture
def follow(results: Path, tmp_path: Path) -> Iterator[Callable[[int], list[str]]]:
    """Give it a number of results, and get their times once so many were shown."""
    shown = tmp_path / "shown"
    with shown.open("wb") as out:
        process = subprocess.Popen([*WELDWATCH, "log", "--directory", str(results), "--follow", "--json"], stdout=out)
    try:

        def times(count: int) -> list[str]:
            until(lambda: shown.read_bytes().count(b"\n") >= count, f"{count} results", 15)
            return [json.loads(one)["created_at"][5:19] for one in shown.read_bytes().splitlines()]

        yield times
    finally:
        process.terminate()
        process.wait(10)


def test_follow_waits_for_a_whole_line_and_goes_on_after_midnight_and_a_rotation(
    results: Path, follow: Callable[[int], list[str]]
) -> None:
    assert len(follow(10)) == 10
    today = results / "2026-11-22.jsonl"
    os.truncate(today, today.stat().st_size - len(b'{"schema": "half'))  # as the agent repairs it
    whole = line(NOON + timedelta(hours=11))
    write(results, "2026-11-22", whole[:100])
    write(results, "2026-11-22", whole[100:])
    assert follow(11)[10:] == ["11-22T23:00:00"]
    today.rename(results / "2026-11-22.1.jsonl")
    write(results, "2026-11-22", line(NOON + timedelta(hours=11, minutes=59)))
    assert follow(12)[11:] == ["11-22T23:59:00"]
    write(results, "2026-11-23", line(NOON + timedelta(hours=12)))
    assert follow(13)[12:] == ["11-23T00:00:00"]


# --- the parts ---

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2h", "2026-11-22T10:00:00.000Z"),
        ("90min", "2026-11-22T10:30:00.000Z"),
        ("1.5 d", "2026-11-21T00:00:00.000Z"),
        ("08:00", "2026-11-22T07:00:00.000Z"),  # Berlin is an hour ahead
        ("22:30", "2026-11-21T21:30:00.000Z"),  # not yet today
        ("today", "2026-11-21T23:00:00.000Z"),
        ("yesterday", "2026-11-20T23:00:00.000Z"),
        ("2026-07-01", "2026-06-30T22:00:00.000Z"),  # summer time
        ("2026-11-22T08:00", "2026-11-22T07:00:00.000Z"),
        ("2026-11-22 08:00:30.5", "2026-11-22T07:00:30.500Z"),
        ("2026-11-22T08:00:00.123Z", "2026-11-22T08:00:00.123Z"),
        ("2026-11-22T08:00-05:00", "2026-11-22T13:00:00.000Z"),
    ],
)
def test_moments(text: str, meant: str) -> None:
    assert iso_utc(moments.parse(text, NOON, BERLIN)) == meant


@pytest.mark.parametrize("text", ["", "2 fortnights", "25:00", "2026-13-01", "tomorrow", "9" * 30 + "d"])
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(UsageError):
        moments.parse(text, NOON, BERLIN)


def test_bisection_finds_what_reading_it_all_finds_and_reads_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "2026-11-22", *(line(NOON + timedelta(seconds=n // 3)) for n in range(6000)))
    size, read = path.stat().st_size, [0]
    pread = os.pread

    def counted(descriptor: int, count: int, at: int) -> bytes:
        chunk = pread(descriptor, count, at)
        read[0] += len(chunk)
        return chunk

    wants = [reading.Wanted(since=NOON + timedelta(seconds=s)) for s in (-10, 0, 1, 777, 1234.5, 1999, 2000)]
    whole = [len(list(reading.read(tmp_path, wanted))) for wanted in wants]
    assert whole == [6000, 6000, 5997, 3669, 2295, 3, 0]
    monkeypatch.setattr(reading, "_BISECT_FROM", 0)
    monkeypatch.setattr(reading, "_CHUNK", 1 << 16)
    assert [len(list(reading.read(tmp_path, wanted))) for wanted in wants] == whole
    monkeypatch.setattr(reading.os, "pread", counted)
    assert len(list(reading.read(tmp_path, wants[5]))) == 3
    assert read[0] < size / 10


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("count", [None, 100])
def test_a_log_that_is_cut_or_goes_while_it_is_read(
    tmp_path: Path, gone: bool, count: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retention makes room between the listing and the reading; the new log of that day has another inode."""
    write(tmp_path, "2026-11-21", *(line(name=f"{n}.png") for n in range(2)))
    today = write(tmp_path, "2026-11-22", *(line(name=f"{n}.png") for n in range(2, 5)))
    found = reading.logs(tmp_path)
    if gone:
        today.unlink()
    else:
        today.rename(tmp_path / "2026-11-22.120000000.jsonl")
        write(tmp_path, "2026-11-22", line(name="later.png"))
    monkeypatch.setattr(reading, "logs", lambda *_: found)
    everything = reading.Wanted()
    lines = reading.read(tmp_path, everything) if count is None else reading.newest(tmp_path, everything, count)
    names = [json.loads(one)["image"]["name"] for one in lines]
    assert names == [f"{n}.png" for n in range(2 if gone else 5)]


def test_parts_of_a_day_come_in_their_order_whatever_they_are_called(tmp_path: Path) -> None:
    for name, minute in (("2026-11-22", 40), ("2026-11-22.1", 0), ("2026-11-22.2", 20)):
        write(tmp_path, name, line(NOON + timedelta(minutes=minute)))
    found = [reading.created_at(one) for one in reading.read(tmp_path, reading.Wanted())]
    assert [moment and moment[14:16] for moment in found] == ["00", "20", "40"]
