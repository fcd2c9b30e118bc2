"""Results out of a damaged ledger: what is on sound pages is read, byte by byte, and nothing else is."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.clock import ManualClock, iso_utc
from agent.errors import UsageError
from agent.ledger import Ledger, salvage
from agent.ledger.database import FILE
from agent.ledger.salvage import DamagedLedger, Salvage
from tests.support.results import an_entry

BEGIN = datetime(2026, 11, 1, tzinfo=timezone.utc)
PAGE = 4096
Bodies = dict[int, bytes]


def filled(folder: Path, count: int = 400, *, long_each: int = 37) -> Bodies:
    """A ledger of ``count`` results, some of them longer than a page; its bodies by sequence."""
    clock = ManualClock(BEGIN)
    ledger = Ledger.open(folder, clock)
    ledger.register(["files", "mqtt"])
    for number in range(1, count + 1):
        pad = "x" * (12_000 if number % long_each == 0 else 0)
        moment = iso_utc(BEGIN + timedelta(seconds=number))
        ledger.commit([an_entry(number, created_at=moment, part_id=f"P{number}", labels=["no defect", f"d{pad}"])])
    ledger.advance("files", count)
    ledger.advance("mqtt", count // 2)
    ledger.save_cursors()
    bodies = {one.sequence: one.body for one in ledger.after(0, limit=count + 1, max_bytes=1 << 30)}
    ledger.close()
    return bodies


def read(path: Path) -> tuple[Salvage, Bodies]:
    with DamagedLedger(path) as ledger:
        found = ledger.look()
        bodies = list(ledger.bodies(found))
    assert len(bodies) == len(found.places)
    return found, {json.loads(body)["sequence"]: body for body in bodies}


class Sound:
    """A ledger of 400 results, and where each lies."""

    def __init__(self, folder: Path) -> None:
        self.bodies = filled(folder)
        self.path = folder / FILE
        self.data = self.path.read_bytes()
        ids = {number: json.loads(body)["result_id"].encode() for number, body in self.bodies.items()}
        self.pages = {number: pages_of(self.data, one) for number, one in ids.items()}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    return Sound(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def damaged(sound: Sound, tmp_path: Path) -> tuple[Path, Bodies]:
    return shutil.copy(sound.path, tmp_path / "ledger-damaged.sqlite3"), sound.bodies


def pages_of(data: bytes, what: bytes) -> list[int]:
    """Numbers of the pages that ``what`` stands on."""
    return [at // PAGE + 1 for at in range(0, len(data), PAGE) if what in data[at : at + PAGE]]


def test_a_sound_file_gives_everything_in_order(damaged: tuple[Path, Bodies]) -> None:
    path, bodies = damaged
    before = path.read_bytes()
    found, there = read(path)
    assert there == bodies
    assert [*there] == sorted(there)
    assert (found.lost, found.unaccounted) == (0, 0)
    assert found.cursors == {"files": 400, "mqtt": 200}
    assert path.read_bytes() == before


def test_what_an_overwritten_page_held_is_known_to_be_lost(damaged: tuple[Path, Bodies]) -> None:
    path, bodies = damaged
    data = bytearray(path.read_bytes())
    (page,) = pages_of(data, json.loads(bodies[101])["result_id"].encode())
    gone = {n for n, body in bodies.items() if page in pages_of(data, json.loads(body)["result_id"].encode())}
    data[(page - 1) * PAGE : page * PAGE] = os.urandom(PAGE)
    path.write_bytes(data)
    with sqlite3.connect(path) as connection, pytest.raises(sqlite3.DatabaseError):
        connection.execute("SELECT sum(length(body)) FROM results").fetchall()
    connection.close()
    found, there = read(path)
    assert there == {n: body for n, body in bodies.items() if n not in gone}
    assert (found.lost, found.unaccounted) == (len(gone), 0)


@pytest.mark.parametrize("wreck", ["the head", "the schema", "every inner page"])
def test_it_needs_neither_head_nor_schema_nor_inner_pages(damaged: tuple[Path, Bodies], wreck: str) -> None:
    path, bodies = damaged
    data = bytearray(path.read_bytes())
    if wreck == "the head":
        data[:100] = bytes(100)
    elif wreck == "the schema":
        data[:PAGE] = bytes(PAGE)
    else:
        for at in range(PAGE, len(data), PAGE):
            if data[at] == 0x05:
                data[at : at + PAGE] = os.urandom(1) * PAGE
    path.write_bytes(data)
    assert read(path)[1] == bodies


def test_what_was_removed_is_not_lost(tmp_path: Path) -> None:
    bodies = filled(tmp_path)
    ledger = Ledger.open(tmp_path, ManualClock(BEGIN))
    ledger.register(["files"])
    assert ledger.prune(BEGIN + timedelta(seconds=200)) > 0
    kept = {one.sequence for one in ledger.after(0, limit=1000, max_bytes=1 << 30)}
    ledger.close()
    found, there = read(tmp_path / FILE)
    assert there == {n: bodies[n] for n in kept}
    assert found.lost == 0


def test_copies_that_lie_on_free_pages_are_not_taken(damaged: tuple[Path, Bodies]) -> None:
    """SQLite moves rows between pages when some are removed, and what it leaves is not wiped."""
    path, bodies = damaged
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA secure_delete = OFF")  # as SQLite is built by itself, and not by Debian
    for condition in ("sequence % 4 != 0", "sequence % 8 != 0", "sequence < 380"):
        with connection:
            connection.execute(f"DELETE FROM results WHERE {condition}")  # noqa: S608
    connection.close()
    found, there = read(path)
    assert there == {n: bodies[n] for n in (384, 392, 400)}
    assert found.lost == 0


def test_dead_letters_hold_results_as_well(tmp_path: Path) -> None:
    bodies = filled(tmp_path, 20)
    ledger = Ledger.open(tmp_path, ManualClock(BEGIN))
    ledger.register(["mqtt"])
    ledger.bury("mqtt", ledger.after(10, limit=1)[0], "too large")
    ledger.advance("mqtt", 20)
    ledger.prune(BEGIN + timedelta(days=1))
    ledger.close()
    _, there = read(tmp_path / FILE)
    assert there == {n: bodies[n] for n in (11, 20)}


@pytest.fixture
def with_wal(tmp_path: Path) -> tuple[Path, Bodies]:
    """As an agent that died left it: most of it in the WAL."""
    live = tmp_path / "live"
    ledger = Ledger.open(live, ManualClock(BEGIN))
    bodies = {}
    for number in range(1, 60):
        (stored,) = ledger.commit([an_entry(number)])
        bodies[stored.sequence] = stored.body
    aside = tmp_path / "aside"
    shutil.copytree(live, aside)
    ledger.close()
    assert (aside / f"{FILE}-wal").stat().st_size > 100_000
    return aside / FILE, bodies


def test_what_is_in_the_wal_is_read_whether_or_not_the_file_has_a_head(with_wal: tuple[Path, Bodies]) -> None:
    path, bodies = with_wal
    assert read(path)[1] == bodies
    path.write_bytes(bytes(PAGE))
    assert read(path)[1] == bodies


def test_what_was_not_committed_and_what_an_earlier_wal_left_is_not_taken(with_wal: tuple[Path, Bodies]) -> None:
    path, bodies = with_wal
    wal = path.with_name(f"{FILE}-wal")
    data = bytearray(wal.read_bytes())
    frame = 24 + PAGE
    starts = [at for at in range(32, len(data), frame) if data[at + 4 : at + 8] != bytes(4)]
    data[starts[-1] + 4 : starts[-1] + 8] = bytes(4)  # the last commit is none
    wal.write_bytes(data)
    assert read(path)[1] == {n: body for n, body in bodies.items() if n < 59}
    data[starts[40] + 8] ^= 1  # another salt: from here on it is of an earlier time
    wal.write_bytes(data)
    there = read(path)[1]
    assert there == {n: bodies[n] for n in range(1, len(there) + 1)}
    assert 30 < len(there) < 45


def test_a_sector_that_the_disk_does_not_give_costs_its_page(
    damaged: tuple[Path, Bodies], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, bodies = damaged
    (page,) = pages_of(path.read_bytes(), json.loads(bodies[7])["result_id"].encode())

    class Worn:
        def __init__(self, file: object) -> None:
            self._file, self._at = file, 0

        def seek(self, at: int) -> None:
            self._at = at
            self._file.seek(at)  # type: ignore[attr-defined]

        def read(self, size: int) -> bytes:
            if self._at == (page - 1) * PAGE:
                raise OSError(5, "Input/output error")
            return self._file.read(size)  # type: ignore[attr-defined, no-any-return]

    with DamagedLedger(path) as ledger:
        ledger._file = Worn(ledger._file)  # type: ignore[assignment]
        found = ledger.look()
        there = list(ledger.bodies(found))
    assert 7 not in found.places
    assert found.lost == 400 - len(there) < 10


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


FILLS: list[Callable[[int, int], bytes]] = [
    lambda _seed, size: bytes(size),
    lambda _seed, size: b"\xff" * size,
    noise,
    lambda seed, size: bytes([(0x0D, 0x0A, 0x02)[seed % 3]]) + noise(seed, size - 1),  # says that it is a b-tree
]


@settings(max_examples=150, deadline=None)
@given(
    spots=st.lists(
        st.tuples(st.integers(0, 10**9), st.sampled_from([1, 16, 512, PAGE]), st.sampled_from(FILLS)), max_size=12
    ),
    cut=st.one_of(st.none(), st.integers(0, 10**9)),
    seed=st.integers(0, 10**6),
)
def test_whatever_is_overwritten_only_what_was_stored_comes_out(
    sound: Sound,
    tmp_path_factory: pytest.TempPathFactory,
    spots: list[tuple[int, int, Callable[[int, int], bytes]]],
    cut: int | None,
    seed: int,
) -> None:
    path, bodies, before = tmp_path_factory.mktemp("damaged") / "d.sqlite3", sound.bodies, sound.data
    data, touched = bytearray(before), set()
    for where, size, fill in spots:
        at = where % (len(data) // size) * size
        data[at : at + size] = fill(seed, size)
        touched.add(at // PAGE + 1)
    if cut is not None:
        del data[cut % len(data) :]
        touched.update(range(len(data) // PAGE + 1, len(before) // PAGE + 1))
    path.write_bytes(data)
    _, there = read(path)
    path.unlink()
    wrecked = {n for spot in spots if spot[1] < PAGE for n in there if there[n] != bodies.get(n)}
    assert all(n in bodies for n in there)
    assert len(wrecked) <= len([spot for spot in spots if spot[1] <= 16]), "a changed byte may leave it a result"
    sizes_known = 1 not in touched
    for number, body in bodies.items():
        if sizes_known and len(body) < 3000 and touched.isdisjoint(sound.pages[number]):
            assert there[number] == body


def test_a_file_that_is_no_ledger_gives_nothing(tmp_path: Path) -> None:
    for number, content in enumerate((b"", b"x", b"SQLite format 3\0", os.urandom(100_000))):
        path = tmp_path / f"{number}"
        path.write_bytes(content)
        assert read(path)[1] == {}
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UsageError, match="no such file"):
            DamagedLedger(path)


def test_a_row_of_somebody_else_is_not_taken_for_a_result(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite3"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT, c TEXT, d TEXT, e TEXT, f TEXT, g BLOB)")
        body = b'{"schema": "weldwatch.result/1", "sequence": 1, "result_id": "r", "created_at": "t"}'
        for row in (
            (1, "r", "t", "n", None, "OK", body.replace(b" ", b"\n")),  # two lines
            (2, "r", "t", "n", None, "OK", body),  # another sequence
            (3, "s", "t", "n", None, "OK", body.replace(b"1,", b"3,")),  # another id
            (4, "r", "t", "n", None, "OK", b"[" * 100_000),
        ):
            connection.execute("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    connection.close()
    assert read(path)[1] == {}


def test_a_chain_without_end_ends(damaged: tuple[Path, Bodies]) -> None:
    path, bodies = damaged
    data = bytearray(path.read_bytes())
    for at in range(PAGE, len(data), PAGE):
        if data[at] not in (0x0D, 0x0A, 0x02, 0x05):
            data[at : at + 4] = (at // PAGE + 1).to_bytes(4, "big")  # an overflow page that leads to itself
    path.write_bytes(data)
    _, there = read(path)
    assert {n for n, body in bodies.items() if len(body) < 3000} <= there.keys()
    assert salvage._LARGEST >= 1 << 20
