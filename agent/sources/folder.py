"""The folder source: every image that arrives below a capture folder is offered once, whole, oldest first.

    inotify ──hints──▶ ┐                                        seen: let go again
    rescan  ──truth──▶ ┴─ settling ──whole?──▶ ledger: seen? ──▶ intake ──▶ offer ──▶ … ──▶ release ──▶ disposal

Invariants
- Events are hints; the scan is the truth. Watch first, then scan; scan again every ``rescan_s``, after lost events, and
  when the folder is another one than before (mounted again).
- A file is offered once a process, and never when the ledger has its key; it is forgotten there only when two clean
  scans of the same folder, an hour apart, did not meet it. A folder that is away or empty forgets nothing.
- A file that waits (growing, unreadable) holds up no other. What cannot be inspected is offered as a problem. After a
  fault what was taken in hand is put back.
- Memory: two numbers a present file, and at most ``WINDOW`` files in waiting; nothing decoded is kept.

Counters on health: files_offered, files_unreadable (offered as a problem), files_incomplete (looked at again),
files_rejected, release_failed, sidecar_bad, identity_unknown, watch_overflow, odd_entries (links, FIFOs, …),
suffixes_unmatched.
Problems: folder_missing:<source>, folder_unreadable:<source>, folder_not_watched:<source>, release_failed:<source>,
folder_out_of_means:<source> (descriptors, memory).
"""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

from agent.clock import Clock
from agent.config import FolderConfig
from agent.errors import RetryError
from agent.frame import Frame, JobAt, no_job
from agent.health import Health
from agent.logs import log
from agent.ports import Offer, SeenKeys
from agent.sources import files
from agent.sources.disposal import Disposal
from agent.sources.identity import Names
from agent.sources.intake import Changed, Intake, Read
from agent.sources.notes import Notes
from agent.sources.presence import Presence
from agent.sources.releasing import Entry
from agent.sources.scan import Patterns, Scan
from agent.sources.settling import Settling, Taken
from agent.sources.watch import Heard, Watching

_log = log("sources")

SLICE = 32  #: files read between two looks at the events
BATCH = 500  #: keys asked of the ledger at once
WINDOW = 20_000  #: files in waiting; more stay where they are until there is room
STOP_S = 0.2  #: how long a wait may keep ``stop`` waiting
PAUSE_S = 1.0  #: between tries while the ledger cannot answer
MISSING_S = 1.0  #: how often a missing folder is looked for
SCAN_SHARE = 10  #: a scan may take a tenth of the time, however many files lie there

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class FolderSource:
    """Implements ``agent.ports.Source`` for one capture folder. Constructing it opens nothing."""

    def __init__(
        self,
        config: FolderConfig,
        zone: ZoneInfo,
        seen: SeenKeys,
        health: Health,
        clock: Clock,
        simulated: bool = False,
        job_at: JobAt = no_job,
    ) -> None:
        self.name = config.name
        self._config, self._seen, self._health, self._clock = config, seen, health, clock
        self._root = os.fsencode(os.path.abspath(config.path))
        self._patterns = Patterns(config.patterns)
        self._settling = Settling(config.settle_s, config.incomplete_s)
        self._notes = Notes(config.name, health)
        names = Names(config.name_pattern, zone)
        self._intake = Intake(config.name, self._root, names, health, clock, self._notes.once, simulated, job_at)
        self._disposal = Disposal(config, self._root, health)
        self._watching = Watching(config.name, self._root, config.rescan_s, health)
        self._presence = Presence(config.name, seen, clock, may_be_empty=not self._disposal.keeps)
        self._state, self._offered = "starting", 0
        self._next_scan, self._soonest_scan, self._more, self._restored = 0.0, 0.0, False, False
        self._paused = False

    def state(self) -> dict[str, Any]:
        """Name, type, path, ``state``: starting, watching, polling, missing, unreadable or stopped."""
        return {
            "name": self.name,
            "type": "folder",
            "path": self._config.path,
            "state": self._state,
            "offered": self._offered,
            "waiting": len(self._settling),
        }

    def release(self, keys: Sequence[bytes]) -> None:
        """These frames are durable: what ``after`` and ``rejected`` say happens soon, in a thread of its own."""
        self._disposal.release(keys)

    def close(self, timeout_s: float) -> None:
        """As ``agent.ports.Source``."""
        self._disposal.releases.close(timeout_s)

    def run(self, offer: Offer, stop: threading.Event, *, once: bool = False) -> None:
        """Offer what is there and, unless ``once``, what arrives, until ``stop``."""
        self._disposal.remember_intents()
        self._next_scan = 0.0  # also where a fault ended an earlier run: what it had heard of is met again
        try:
            self._run(offer, stop, once)
        finally:
            self._watching.close()
            self._state = "stopped"

    def _run(self, offer: Offer, stop: threading.Event, once: bool) -> None:
        while not stop.is_set():
            try:
                if self._clock.monotonic() >= self._next_scan:
                    self._scan(once)
                self._look_at(self._settling.due(self._clock.monotonic()))
                if not self._hand_over(offer, stop):
                    return
                if once and not len(self._settling) and not self._more:
                    return
                self._paused = False
                self._wait(stop, once)
            except RetryError as error:  # the ledger cannot say what it has; without it nothing may be offered
                self._pause(error, stop)

    def _pause(self, error: RetryError, stop: threading.Event) -> None:
        if not self._paused:
            _log.warning("source %s: folder_waiting: images stay where they are: %s", self.name, error)
        self._paused = True
        stop.wait(PAUSE_S)
        self._next_scan = 0.0  # what was met or heard of meanwhile is met again

    def _wait(self, stop: threading.Event, once: bool) -> None:
        """Sleep until a file is due, a scan is, or something is heard."""
        now = self._clock.monotonic()
        due = self._settling.next_due()
        until = min(self._next_scan, now + STOP_S, now + STOP_S if due is None else due)
        if once:
            stop.wait(max(0.0, until - now))
            return
        self._hear(self._watching.wait(max(0.0, until - now), stop))

    def _hear(self, heard: Heard) -> None:
        if heard.overflow:
            self._health.count("watch_overflow")
            if self._next_scan > self._soonest_scan:
                self._next_scan = self._soonest_scan
                _log.warning(
                    "source %s: watch_overflow: more files at once than the kernel reports; scanning the folder",
                    self.name,
                )
        if heard.root_lost:
            self._next_scan = 0.0
        for folder in heard.folders:
            if not files.is_hidden(folder):
                self._take_up(self._new_scan().walk(folder))
        self._look_at(path for path in heard.files if self._patterns.match(files.split(path)[1]))

    def _look_at(self, paths: Iterable[bytes]) -> None:
        """See how these files are by now."""
        for path in paths:
            try:
                facts = os.lstat(os.path.join(self._root, path))
            except OSError:
                self._settling.forget(path)  # gone, or out of reach until a scan meets it again
                continue
            if files.is_regular(facts):
                self._sight(path, facts)
            else:
                self._settling.forget(path)
                self._notes.odd(path, facts)

    def _sight(self, path: bytes, facts: os.stat_result) -> None:
        signature = files.signature_of(facts)
        if self._presence.is_done(path, signature):
            self._settling.forget(path)
            return
        if len(self._settling) >= WINDOW and path not in self._settling:
            self._more = True
            return
        now = (self._clock.now() - _EPOCH).total_seconds()
        age, still = now - facts.st_mtime_ns / 1e9, now - facts.st_ctime_ns / 1e9
        self._settling.sight(path, signature, self._clock.monotonic(), age, still)

    def _scan(self, once: bool) -> None:
        """Look through the whole folder."""
        begin = self._clock.monotonic()
        try:
            root = os.stat(self._root)
        except OSError as error:
            self._away(error, begin, once)
            return
        same = self._presence.same_root((root.st_dev, root.st_ino))
        if not once:
            self._watching.start(afresh=not same)
        self._more = False
        self._disposal.releases.scan_begins()
        scan = self._new_scan()
        named = self._presence.begin()
        self._take_up(self._not_done(scan, named=named))
        clean = not scan.errors and not self._more
        self._presence.end(clean=clean)
        if clean and not scan.hidden:
            self._disposal.all_met()
        self._watching.finish(None if scan.errors else scan.folders)
        self._report(scan.errors)
        self._disposal.releases.scan_ends(clean=clean)
        now = self._clock.monotonic()
        self._soonest_scan = now + 2 * (now - begin)
        self._next_scan = math.inf if once else now + max(self._config.rescan_s, SCAN_SHARE * (now - begin))
        if not self._restored:
            self._disposal.restore(scan.hidden)
            self._restored, self._more = True, self._more or bool(scan.hidden)
            self._disposal.releases.begin(once=once)

    def _new_scan(self) -> Scan:
        return Scan(self._root, self._patterns, self._watching.add, self._notes.odd, self._notes.unmatched)

    def _not_done(self, scan: Scan, *, named: bool) -> Iterator[tuple[bytes, os.stat_result]]:
        for path, facts in scan.walk():
            signature = files.signature_of(facts)
            new = self._presence.meet(path, signature, self._intake.key(path, signature) if named else None)
            if new or self._disposal.releases.is_left(path, signature):
                yield path, facts

    def _take_up(self, found: Iterator[tuple[bytes, os.stat_result]]) -> None:
        """Files that a scan met and that are not done: let go of those that the ledger has, sight the others."""
        while batch := list(islice(found, BATCH)):
            new: list[tuple[bytes, os.stat_result]] = []
            for path, facts in batch:
                if path in self._settling:
                    self._sight(path, facts)
                elif len(self._settling) + len(new) < WINDOW:
                    new.append((path, facts))
                else:
                    self._more = True
            unseen = self._unseen([Taken(path, files.signature_of(facts)) for path, facts in new])
            for path, facts in new:
                if path in unseen:
                    self._sight(path, facts)

    def _unseen(self, taken: list[Taken]) -> set[bytes]:
        """Those that have no result; the others are done, and are let go where that was cut short."""
        keys = {self._intake.key(*one): one for one in taken}
        seen = self._seen.seen(list(keys)) if keys else set()
        self._disposal.met(keys.keys())
        again = []
        for key, one in keys.items():
            if key in seen:
                self._presence.done(*one)
                if self._disposal.wanted(key):
                    again.append(Entry(key, *one))
        self._disposal.releases.hand_in(again)
        return {one.path for key, one in keys.items() if key not in seen}

    def _hand_over(self, offer: Offer, stop: threading.Event) -> bool:
        """Read and offer the oldest of what is ready; False when the agent wants no more."""
        taken: list[Taken] = []
        while len(taken) < SLICE and (one := self._settling.take()) is not None:
            taken.append(one)
        waiting = deque(taken)
        try:
            unseen = self._unseen(taken)
            while waiting:
                if waiting[0].path not in unseen:
                    self._settling.forget(waiting[0].path)
                elif stop.is_set() or not self._one(waiting[0], offer):
                    return False
                waiting.popleft()
        finally:  # after a fault, or where the agent wants no more
            for one in waiting:
                self._settling.put_back(one.path, self._clock.monotonic())
        if self._more and len(self._settling) < WINDOW // 2:
            self._next_scan = 0.0  # there is room again for those that had to wait outside
        return True

    def _one(self, one: Taken, offer: Offer) -> bool:
        """One file: offered, put back, or let be. False when the agent wants no more."""
        now = self._clock.monotonic()
        try:
            outcome = self._intake.read(*one)
        except OSError as error:
            self._settling.put_back(one.path, now)
            self._notes.out_of_means(error)
            return True
        self._notes.has_means()
        if isinstance(outcome, Read):
            trust = not self._watching.remote
            if outcome.undecided and self._settling.undecided(
                one.path, now, reread=outcome.unopened, trust_times=trust
            ):
                self._health.count("files_incomplete")
                return True
            return self._offer(one, outcome.frame, offer)
        self._settling.forget(one.path)
        if isinstance(outcome, Changed):
            self._look_at([one.path])
        return True

    def _offer(self, one: Taken, frame: Frame, offer: Offer) -> bool:
        self._disposal.expect(one.path, one.signature, frame)
        if not offer(frame):
            return False
        self._settling.forget(one.path)
        self._presence.done(*one)
        self._offered += 1
        self._health.count("files_offered")
        if frame.problem is not None:
            self._health.count("files_unreadable")
        if frame.identity_unknown:
            self._health.count("identity_unknown")
        return True

    def _away(self, error: OSError, now: float, once: bool) -> None:
        """The folder cannot even be looked at."""
        self._state = "missing"
        self._watching.close()
        self._next_scan = math.inf if once else now + min(MISSING_S, self._config.rescan_s)
        self._notes.missing(self._root, error)

    def _report(self, errors: list[tuple[bytes, OSError]]) -> None:
        """Say how the scan went."""
        unreadable = bool(errors) and errors[0][0] == b""
        self._state = "unreadable" if unreadable else "polling" if self._watching.polling else "watching"
        self._notes.scanned(self._root, errors)
