"""The second lane of a shipper: spans of time that someone asked to have again, between the batches of the first.

Invariants
- The first lane, its order and its cursor are not touched: only what the sink is done with goes out again, a few at a
  time, so that a fresh result waits for one such handful at most.
- Each result of the span that the ledger still holds is sent at least once after the wish; what a kill interrupts is
  taken up where it was noted last. What the first lane has still to deliver is left to it.
- Trouble in here is never the first lane's: it is tried again by itself, and a result that the sink never takes is
  passed over (it is on disk, and a dead letter already if it was refused before).
"""

from __future__ import annotations

import msgspec

from agent.clock import Clock
from agent.delivery.replays import Progress, Replays, Wish
from agent.errors import RejectError, RetryError
from agent.health import Health
from agent.ledger import Ledger
from agent.logs import log
from agent.ports import Replaying

_LOG = log("delivery")
_HANDFUL, _EVERY_S = 50, 0.1  #: results at a time; at most so often: 500 a second
_LOOK_S = 1.0  #: how often a new wish is looked for
_NOTE_S = 1.0  #: how often the progress is written down
_AGAIN_S, _FAULT_S = 5.0, 60.0  #: after trouble, after a fault of ours


class Lane:
    """``step`` is called from the shipper's thread, often; it does something only when it is time to."""

    def __init__(
        self, name: str, sink: Replaying, replays: Replays, ledger: Ledger, health: Health, clock: Clock
    ) -> None:
        self._name, self._sink, self._replays = name, sink, replays
        self._ledger, self._health, self._clock = ledger, health, clock
        self._now: tuple[str, Wish, Progress] | None = None
        self._next = self._noted_at = float("-inf")
        self._passed_over: set[str] = set()  # wishes that are no wishes, or that cannot be removed

    def pause_s(self) -> float:
        """How long nothing is to be done."""
        return max(0.0, self._next - self._clock.monotonic())

    def step(self, cursor: int) -> None:
        """Send a handful of what is wanted again, if it is time. ``cursor``: what the first lane is done with."""
        now = self._clock.monotonic()
        if now < self._next:
            return
        self._next = now + _EVERY_S
        try:
            if self._now is None:
                self._take_up()
            if self._now is not None:
                self._send(*self._now, cursor)
            else:
                self._next = now + _LOOK_S
        except (RetryError, OSError) as error:
            _LOG.debug("%s: the replay waits: %s", self._name, error)
            self._next = self._clock.monotonic() + _AGAIN_S
        except Exception as error:  # noqa: BLE001  # a fault of ours in here must not hold up the first lane: logged whole
            _LOG.error("delivery_fault: %s: replay: unexpected %r; tried again", self._name, error, exc_info=True)
            self._next = self._clock.monotonic() + _FAULT_S

    def _take_up(self) -> None:
        """The oldest wish for this sink."""
        for name in self._replays.names():
            if name in self._passed_over:
                continue
            wish = self._replays.wish(name)
            if wish is not None and wish.sink != self._name:
                continue
            if wish is None:
                self._passed_over.add(name)
                _LOG.warning(
                    "replay_trouble: %s: %s.json is no replay that can be read; remove it", self._replays.folder, name
                )
                continue
            progress = self._replays.progress(name)
            if progress is None or progress.ledger_id != self._ledger.ledger_id:
                first, last, total = self._ledger.span(wish.since, wish.until)
                progress = Progress(self._ledger.ledger_id, last, total, first - 1, 0)
            self._now = name, wish, progress
            self._replays.note(name, progress)
            told = f"{progress.total} results made from {wish.since} to {wish.until} go out again"
            _LOG.info("%s: replay %s: %s", self._name, name, told)
            return

    def _send(self, name: str, wish: Wish, progress: Progress, cursor: int) -> None:
        if not self._replays.is_wanted(name):
            _LOG.info("%s: replay %s is cancelled after %d of %d", self._name, name, progress.sent, progress.total)
            self._end(name)
            return
        rows = [one for one in self._ledger.after(progress.at, _HANDFUL) if one.sequence <= min(progress.last, cursor)]
        if not rows:
            _LOG.info("%s: replay %s is done, %d results", self._name, name, progress.sent)
            self._end(name)
            return
        wanted = [one for one in rows if wish.since <= one.created_at < wish.until]
        sent, done = 0, rows[-1].sequence
        if wanted:
            try:
                sent = self._sink.deliver_again(wanted)
            except RejectError as error:
                _LOG.warning(
                    "replay_passed_over: %s: replay %s passes over result %s: %s",
                    self._name,
                    name,
                    wanted[0].result_id,
                    error,
                )
                done = wanted[0].sequence
            else:
                done = done if sent == len(wanted) else wanted[sent - 1].sequence
        self._health.count(f"{self._name}_replayed", sent)
        progress = msgspec.structs.replace(progress, at=done, sent=progress.sent + sent)
        self._now = name, wish, progress
        if self._clock.monotonic() - self._noted_at >= _NOTE_S:
            self._noted_at = self._clock.monotonic()
            self._replays.note(name, progress)

    def _end(self, name: str) -> None:
        self._now = None
        try:
            self._replays.end(name)
        except OSError as error:
            self._passed_over.add(name)
            _LOG.warning("replay_trouble: %s: replay %s is over and cannot be removed: %s", self._name, name, error)
