"""What a ledger promises: durable, in order, without gaps, each file once."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from agent.clock import ManualClock, SystemClock, iso_utc
from agent.ledger import Entry, Ledger, database
from agent.ledger.database import FILE
from tests.support.backlog import fill
from tests.support.results import a_result, an_entry, key

NOW = datetime(2026, 11, 22, 10, 22, 5, tzinfo=timezone.utc)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def ledger(tmp_path: Path, clock: ManualClock) -> Iterator[Ledger]:
    ledger = Ledger.open(tmp_path, clock)
    yield ledger
    ledger.close()


def reopened(folder: Path) -> Ledger:
    return Ledger.open(folder, SystemClock())


def test_commit_gives_sequence_and_ledger_id_and_keeps_the_rest(ledger: Ledger) -> None:
    result = a_result("A17_Ü_\\xff.png", part_id="A17")
    (one,) = ledger.commit([Entry(result, key(1), "captures")])
    body = json.loads(one.body)
    assert (body["sequence"], body["ledger_id"], body["result_id"]) == (1, ledger.ledger_id, result.result_id)
    assert (body["part_id"], body["class"], body["image"]["name"]) == ("A17", "defect", "A17_Ü_\\xff.png")
    assert ledger.after(0) == [one]
    assert ledger.last_sequence == 1


def test_sequences_go_on_after_a_restart_under_the_same_ledger_id(tmp_path: Path) -> None:
    first = reopened(tmp_path)
    first.commit([an_entry(n) for n in range(3)])
    first.close()
    second = reopened(tmp_path)
    assert second.ledger_id == first.ledger_id
    assert [one.sequence for one in second.commit([an_entry(7)])] == [4]
    second.close()


def test_a_file_gets_exactly_one_result(ledger: Ledger) -> None:
    ledger.commit([an_entry(1), an_entry(2)])
    again = ledger.commit([an_entry(2), an_entry(3), an_entry(3), an_entry(4)])
    assert [(one.sequence, one.image_name) for one in again] == [(3, "A17_000003.png"), (4, "A17_000004.png")]
    assert ledger.commit([an_entry(1)]) == []
    assert ledger.seen([key(n) for n in range(6)]) == {key(n) for n in (1, 2, 3, 4)}


def test_without_a_key_nothing_is_taken_for_a_duplicate(ledger: Ledger) -> None:
    result = a_result()
    assert len(ledger.commit([Entry(result, None, "predict"), Entry(result, None, "predict")])) == 2


def test_after_keeps_to_count_and_bytes_but_gives_one_at_least(ledger: Ledger) -> None:
    whole = ledger.commit([an_entry(n) for n in range(10)])
    assert ledger.after(3, limit=4) == whole[3:7]
    size = len(whole[0].body)
    assert ledger.after(0, max_bytes=int(2.5 * size)) == whole[:2]
    assert ledger.after(8, max_bytes=1) == whole[8:9]
    assert ledger.after(10) == []


def test_many_threads_commit_without_a_gap(ledger: Ledger) -> None:
    def work(worker: int) -> None:
        for n in range(25):
            ledger.commit([an_entry(worker * 1000 + n * 2), an_entry(worker * 1000 + n * 2 + 1)])

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.sequence for one in ledger.after(0, limit=1000)] == list(range(1, 201))


def test_a_waiting_reader_is_woken_by_a_commit(ledger: Ledger) -> None:
    woken = threading.Event()
    waiter = threading.Thread(target=lambda: ledger.wait_for(0, 20) and woken.set())
    waiter.start()
    ledger.commit([an_entry(1)])
    waiter.join(10)
    assert woken.is_set()
    assert not ledger.wait_for(1, 0)


def test_a_waiting_reader_can_be_called_off(ledger: Ledger) -> None:
    enough = threading.Event()
    waiter = threading.Thread(target=ledger.wait_for, args=(0, 60, enough.is_set))
    waiter.start()
    enough.set()
    ledger.wake()
    waiter.join(10)
    assert not waiter.is_alive()


# --- cursors ---


def test_a_new_sink_starts_at_the_oldest_result_kept(tmp_path: Path, clock: ManualClock) -> None:
    ledger = Ledger.open(tmp_path, clock)
    ledger.register(["files"])
    ledger.commit([an_entry(n, created_at=iso_utc(NOW - timedelta(days=100 - n))) for n in range(10)])
    ledger.advance("files", 10)
    ledger.close()
    ledger = Ledger.open(tmp_path, clock)
    assert ledger.prune(NOW - timedelta(days=94.5)) == 6
    ledger.register(["files", "mqtt"])
    assert (ledger.depth("files"), ledger.depth("mqtt")) == (0, 4)
    assert ledger.after(ledger.cursor("mqtt"))[0].sequence == 7
    assert ledger.oldest_undelivered("mqtt") == NOW - timedelta(days=94)
    assert ledger.oldest_undelivered("files") is None
    ledger.close()


def test_cursors_survive_a_restart_and_do_not_go_back_by_themselves(tmp_path: Path) -> None:
    ledger = reopened(tmp_path)
    ledger.register(["files", "mqtt"])
    ledger.commit([an_entry(n) for n in range(5)])
    ledger.advance("mqtt", 3)
    with pytest.raises(ValueError, match="cannot move"):
        ledger.advance("mqtt", 3)
    with pytest.raises(ValueError, match="cannot move"):
        ledger.advance("mqtt", 6)
    ledger.close()
    ledger = reopened(tmp_path)
    ledger.register(["files", "mqtt"])
    assert (ledger.cursor("files"), ledger.cursor("mqtt")) == (0, 3)
    ledger.close()


def test_a_doubted_cursor_goes_back_as_far_as_results_are_kept_and_stays_there_after_a_kill(
    ledger: Ledger, tmp_path: Path, clock: ManualClock
) -> None:
    ledger.register(["mqtt"])
    rows = ledger.commit([an_entry(n, created_at=iso_utc(NOW - timedelta(days=20 - n))) for n in range(10)])
    ledger.bury("mqtt", rows[6], "refused")
    ledger.advance("mqtt", 9)
    assert ledger.go_back("mqtt", 9) == set()
    assert ledger.go_back("mqtt", 5) == {7}, "what is dead need not come again"
    assert ledger.cursor("mqtt") == 5
    with closing(sqlite3.connect(tmp_path / FILE)) as connection:  # as a kill would leave it
        assert connection.execute("SELECT cursor FROM sinks WHERE name = 'mqtt'").fetchall() == [(5,)]
    assert ledger.go_back("mqtt", 8) == set()
    assert ledger.cursor("mqtt") == 5, "back, never forward"
    ledger.close()
    with closing(Ledger.open(tmp_path, clock)) as later:
        later.register(["mqtt"])
        assert later.prune(NOW - timedelta(days=17, hours=12)) == 3
        later.go_back("mqtt", 0)
        assert later.cursor("mqtt") == 3, "what is gone is not waited for"
        later.advance("mqtt", 10)
        assert later.depth("mqtt") == 0


def test_a_cursor_is_written_along_with_a_commit_now_and_then(
    ledger: Ledger, tmp_path: Path, clock: ManualClock
) -> None:
    def on_disk() -> int:
        connection = sqlite3.connect(tmp_path / FILE)
        found = connection.execute("SELECT cursor FROM sinks WHERE name = 'mqtt'").fetchone()[0]
        connection.close()
        return int(found)

    ledger.register(["mqtt"])
    ledger.commit([an_entry(n) for n in range(30)])
    ledger.advance("mqtt", 19)
    ledger.commit([an_entry(30)])
    assert on_disk() == 0, "a write a result is spared"
    ledger.advance("mqtt", 20)
    ledger.commit([an_entry(31)])
    assert on_disk() == 20, "after twenty deliveries"
    ledger.advance("mqtt", 21)
    clock.advance(5)
    ledger.commit([an_entry(32)])
    assert on_disk() == 21, "after five seconds"
    ledger.advance("mqtt", 22)
    assert ledger.save_cursors()
    assert on_disk() == 22, "when the shipper idles"
    ledger.advance("mqtt", 23)
    clock.advance(10)
    ledger.advance("mqtt", 24)
    assert on_disk() == 24, "alone, where no commit comes"


def test_a_dead_letter_is_kept_with_its_reason_and_passed_over(ledger: Ledger, tmp_path: Path) -> None:
    ledger.register(["mqtt"])
    stored = ledger.commit([an_entry(1), an_entry(2)])
    ledger.bury("mqtt", stored[0], "too large")
    assert ledger.cursor("mqtt") == 1
    other = reopened(tmp_path)
    (letter,) = other.dead("mqtt")
    assert (letter.sequence, letter.reason, letter.body) == (1, "too large", stored[0].body)
    assert letter.buried_at == iso_utc(NOW)
    assert other.dead("files") == []
    assert other.cursor("mqtt") == 1
    other.close()


# --- growing old ---


def test_pruning_spares_what_a_configured_sink_has_still_to_deliver(ledger: Ledger) -> None:
    ledger.register(["files", "mqtt"])
    ledger.commit([an_entry(n) for n in range(10)])
    ledger.advance("files", 10)
    ledger.advance("mqtt", 4)
    later = NOW + timedelta(days=365)
    assert ledger.prune(later) == 4
    ledger.register(["files"])  # mqtt was taken out of the configuration: it holds nothing back any more
    assert ledger.prune(later) == 5
    assert [one.sequence for one in ledger.after(0)] == [10], "the newest stays, so that no sequence comes twice"
    assert ledger.prune(later) == 0


def test_pruning_keeps_to_the_days_asked_for(tmp_path: Path, clock: ManualClock) -> None:
    ledger = Ledger.open(tmp_path, clock)
    ledger.register(["files"])
    ledger.commit([an_entry(n, created_at=iso_utc(NOW - timedelta(days=n))) for n in (5, 4, 3, 2, 1)])
    ledger.advance("files", 5)
    ledger.close()
    ledger = Ledger.open(tmp_path, clock)
    assert ledger.prune(NOW - timedelta(days=3.5)) == 2
    assert [one.sequence for one in ledger.after(0)] == [3, 4, 5]
    ledger.close()


def test_results_of_a_clock_that_was_wrong_are_not_old(ledger: Ledger, clock: ManualClock) -> None:
    """Made in 1970, until NTP put the clock right; by the monotonic clock they are minutes old."""

    def prune() -> int:
        dropped = ledger.prune(clock.now() - timedelta(days=90))
        return dropped + ledger.prune(clock.now() - timedelta(days=90))

    ledger.register(["files"])
    ledger.commit([an_entry(n, created_at=f"1970-01-01T00:0{n}:00.000Z") for n in range(5)])
    ledger.advance("files", 5)
    assert prune() == 0
    clock.advance(40 * 86_400)
    ledger.commit([an_entry(n, created_at="1970-02-10T00:00:00.000Z") for n in range(5, 10)])
    ledger.advance("files", 10)
    assert prune() == 0
    clock.advance(49.9 * 86_400)
    assert prune() == 0
    clock.advance(0.1 * 86_400)
    assert prune() == 5, "an agent that runs for months prunes all the same"
    clock.advance(40 * 86_400)
    assert prune() == 4
    assert [one.sequence for one in ledger.after(0)] == [10]


def test_nobody_is_ahead_of_the_ledger(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader sees a commit before the thread that made it goes on; a sink could be done with it by then."""
    ledger.register(["files"])
    between: list[int] = []
    writing = ledger._access.writing

    @contextmanager
    def then_look() -> Iterator[sqlite3.Connection]:  # the file has the results then, and ``last_sequence`` not yet
        with writing() as connection:
            yield connection
        between.append(len(ledger.after(0)))

    with monkeypatch.context() as patched:
        patched.setattr(ledger._access, "writing", then_look)
        ledger.commit([an_entry(1), an_entry(2)])
    assert between == [0]
    assert len(ledger.after(0)) == 2
    ledger.advance("files", 2)


def test_pruning_goes_through_large_numbers(ledger: Ledger) -> None:
    ledger.register(["files"])
    ledger.commit([an_entry(n) for n in range(1203)])
    ledger.advance("files", 1203)
    assert ledger.prune(NOW + timedelta(days=1)) == 1202


def test_what_is_pruned_goes_back_to_the_disk_in_bounded_steps(ledger: Ledger, tmp_path: Path) -> None:
    """Some Pythons take one step of ``incremental_vacuum`` an execute, which is one page."""

    def free_and_size() -> tuple[int, int]:
        with closing(sqlite3.connect(tmp_path / FILE)) as other:
            return int(other.execute("PRAGMA freelist_count").fetchone()[0]), (tmp_path / FILE).stat().st_size

    ledger.register(["files"])
    for start in range(0, 4000, 500):
        ledger.commit([an_entry(n) for n in range(start, start + 500)])
    ledger.advance("files", 4000)
    assert ledger.prune(NOW + timedelta(days=1)) == 3999
    free, size = free_and_size()
    assert free > 1000
    steps = []
    while step := ledger.give_back():
        steps.append(step)
    assert sum(steps) == free
    assert max(steps) <= 500, "no commit waits for all of it"
    assert len(steps) == -(-free // 500)
    left, smaller = free_and_size()
    assert left == 0
    assert size - smaller > free * 4096 * 0.95


def test_many_that_read_at_once_leave_no_more_than_two_connections_open(ledger: Ledger, tmp_path: Path) -> None:
    ledger.commit([an_entry(n) for n in range(10)])

    def look(everybody: threading.Barrier, read: list[int]) -> None:
        with ledger._access.reading() as reader:
            everybody.wait(30)  # all of them have one now
            read.append(reader.execute("SELECT count(*) FROM results").fetchone()[0])

    def handles(file: str) -> int:
        links = [link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        return links.count(tmp_path / file)

    most = set()
    for _ in range(3):
        everybody, read = threading.Barrier(8), list[int]()
        threads = [threading.Thread(target=look, args=(everybody, read)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert read == [10] * 8
        assert handles(f"{FILE}-wal") <= 3, "one that writes, two that read"
        most.add(handles(FILE))
    assert max(most) <= 9, "what SQLite keeps of those that are closed is used again"
    assert len(ledger.after(0)) == 10


def test_keys_of_files_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    ledger = reopened(tmp_path)
    ledger.commit([an_entry(n) for n in range(1200)])
    ledger.commit([Entry(a_result(), b"another source's", "other")])
    ledger.close()
    ledger = reopened(tmp_path)
    assert ledger.forget_seen("captures", lambda one: one == key(7)) == 1199
    assert ledger.seen([key(7), key(8), b"another source's"]) == {key(7), b"another source's"}
    ledger.close()


def test_a_file_that_came_after_the_listing_is_not_forgotten(ledger: Ledger) -> None:
    listing = {key(1)}
    ledger.commit([an_entry(1), an_entry(2)])  # file 2 appears after the folder was listed, before the call
    assert ledger.forget_seen("captures", listing.__contains__) == 0
    assert ledger.seen([key(2)]) == {key(2)}
    assert ledger.forget_seen("captures", {key(1), key(2)}.__contains__) == 0
    assert ledger.forget_seen("captures", {key(1)}.__contains__) == 1


def test_a_start_reads_little_of_a_large_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "CHECK_UP_TO_BYTES", 0)
    fill(tmp_path, 20_000, {"mqtt": 0})
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as connection:
        connection.set_progress_handler(step, 1000)
        database._check(connection, tmp_path / FILE)
    assert steps < 10, "thousands of SQLite's steps"
