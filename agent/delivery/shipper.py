"""A shipper feeds one sink from its cursor in the ledger, in its own thread.

Invariants
- Every delivery ends accepted (the cursor moves), rejected (dead letter with its reason, counted, logged) or kept.
- In order, at least once: the cursor moves after the sink said that the results are durable at the far end. It goes
  back where the sink doubts that (``ports.Unsure``), and what follows comes again by itself; but no dead letter.
- A sink that is slow, away or broken delays neither another sink nor an inspection.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from agent.clock import Clock
from agent.delivery.backoff import Backoff
from agent.delivery.lane import Lane
from agent.delivery.replays import Replays
from agent.errors import FatalError, RejectError, RetryError
from agent.health import Health
from agent.ledger import Ledger
from agent.logs import log
from agent.ports import MOST_AGAIN, Replaying, Sink, Stored, Unsure

_LOG = log("delivery")
_FIRST_PAUSE_S = 0.2
_IDLE_S = 2.0  #: without a result for so long a sink is idle
_LOOK_AGAIN_S = 60.0  #: a commit wakes the shipper; this is only a net below


class Shipper:
    """``start`` it once, ``stop`` it once. The sink must be registered in the ledger."""

    def __init__(
        self, sink: Sink, ledger: Ledger, health: Health, clock: Clock, replays: Replays | None = None
    ) -> None:
        self._sink, self._ledger, self._health, self._clock = sink, ledger, health, clock
        self._again: Lane | None = None
        if replays is not None and isinstance(sink, Replaying):
            self._again = Lane(sink.name, sink, replays, ledger, health, clock)
        self._doubting = sink if isinstance(sink, Unsure) else None
        self._doubted: int | None = None  #: a doubt that the ledger has not taken yet
        self._reached = -1  #: the furthest the cursor ever was
        self._dead: set[int] = set()  #: dead letters after the cursor, which went back
        self._problem = f"{sink.name}_undelivered"
        self._thread = threading.Thread(target=self._run, name=f"shipper-{sink.name}", daemon=True)
        self._stopping = threading.Event()  # deliver what is there, then end
        self._over = threading.Event()  # the deadline has passed: end at once
        self._woken = threading.Event()
        self._moved = threading.Condition()
        self._backoff, self._failing_since = Backoff(_FIRST_PAUSE_S, sink.pace.backoff_max_s), 0.0
        self._busy_at = float("-inf")

    def start(self) -> None:
        """Open the sink and begin to deliver."""
        self._sink.open(self.wake)
        self._thread.start()

    def wake(self) -> None:
        """It is worth looking again at once (the broker is back, or gone)."""
        self._woken.set()
        self._ledger.wake()

    def drained(self) -> bool:
        """Everything committed so far is delivered (or a dead letter)."""
        return self._ledger.depth(self._sink.name) == 0

    def wait_drained(self, timeout: float) -> bool:
        """Wait until ``drained``, at most ``timeout`` seconds."""
        with self._moved:
            return self._moved.wait_for(self.drained, timeout)

    def stop(self, deadline_s: float = 5.0) -> bool:
        """Deliver what can be delivered within ``deadline_s``, then close the sink. True when nothing is left.

        A sink that is away when asked to stop is not waited for; what it has not taken stays in the ledger.
        """
        self._stopping.set()
        self._woken.set()
        self._ledger.wake()
        if self._thread.ident is not None:
            self._thread.join(deadline_s)
        self._over.set()
        self._woken.set()
        self._sink.close()
        if self._thread.ident is not None:
            self._thread.join(5.0)
        self._ledger.save_cursors()
        return self.drained()

    # --- the thread ---

    def _run(self) -> None:
        while not self._over.is_set():
            started = self._clock.monotonic()
            try:
                went = self._step()
            except (RetryError, FatalError) as error:  # a damaged ledger: the agent is about to start again
                if not self._pause(str(error)):
                    return
            except Exception as error:  # noqa: BLE001  # a fault of ours must not end the thread and strand the results
                if self._backoff.failures == 0:
                    _LOG.error(
                        "delivery_fault: %s: unexpected %r; kept and tried again", self._sink.name, error, exc_info=True
                    )
                if not self._pause(f"unexpected {error!r}"):
                    return
            else:
                if went == 0 and self._stopping.is_set() and self.drained():
                    return
                if 0 < went < self._sink.pace.batch:
                    self._keep_pace(started)

    def _step(self) -> int:
        """Deliver one batch, or wait for something to deliver. How many the sink is done with."""
        name, pace = self._sink.name, self._sink.pace
        self._woken.clear()
        self._look_back()
        cursor = self._ledger.cursor(name)
        if self._again is not None and not self._stopping.is_set():
            self._again.step(cursor)
        batch: Sequence[Stored] = self._ledger.after(cursor, pace.batch, pace.batch_bytes)
        if not batch:
            self._wait(cursor)
            return 0
        if self._dead:
            batch = self._without_dead(batch)
            if not batch:
                return 1
        try:
            accepted = self._sink.deliver(batch)
        except RejectError as error:
            self._recovered()
            self._bury(batch[0], str(error))
            return 1
        if accepted == 0:
            raise RetryError("took nothing and gave no reason")
        self._recovered()
        self._busy_at = self._clock.monotonic()
        done = batch[accepted - 1].sequence
        self._ledger.advance(name, done)
        self._health.count(f"{name}_delivered", sum(one.sequence > self._reached for one in batch[:accepted]))
        self._reached = max(self._reached, done)
        self._tell_moved()
        return accepted

    def _look_back(self) -> None:
        """Take the cursor back to where the sink's doubt begins. At first: what a doubt before the start left open."""
        name = self._sink.name
        at = self._ledger.cursor(name)
        first = self._doubting.doubt() if self._doubting is not None else None
        if first is not None:
            self._doubted = first if self._doubted is None else min(first, self._doubted)
        if self._doubted is not None or self._reached < 0:
            to = at if self._doubted is None else min(at, max(self._doubted - 1, at - MOST_AGAIN))
            self._dead = self._ledger.go_back(name, to)
            self._doubted = None
            if (again := at - self._ledger.cursor(name)) > 0:
                _LOG.info("%s: what it took last may be lost: %d results are sent once more", name, again)
        self._reached = max(self._reached, at)

    def _without_dead(self, batch: Sequence[Stored]) -> Sequence[Stored]:
        """What comes before the first dead letter; those at the front are passed over, as they were before."""
        index = next((index for index, one in enumerate(batch) if one.sequence in self._dead), len(batch))
        if index == 0:
            self._ledger.advance(self._sink.name, batch[0].sequence)
            self._dead.discard(batch[0].sequence)
            self._tell_moved()
        return batch[:index]

    def _wait(self, cursor: int) -> None:
        """For a result, or for the second lane's next handful."""
        pause = _LOOK_AGAIN_S if self._again is None else self._again.pause_s()
        idle_s = self._clock.monotonic() - self._busy_at
        if idle_s >= _IDLE_S:  # the next commit takes the cursor along; only where none comes is it written by itself
            self._ledger.save_cursors()
        else:
            pause = min(pause, _IDLE_S - idle_s)
        self._ledger.wait_for(cursor, pause, unless=lambda: self._stopping.is_set() or self._woken.is_set())

    def _bury(self, stored: Stored, reason: str) -> None:
        self._ledger.bury(self._sink.name, stored, reason)
        self._health.count(f"{self._sink.name}_dead_letters")
        _LOG.error(
            "dead_letter: %s refuses result %s (sequence %d, %s): %s; kept, see `weldwatch outbox status`",
            self._sink.name, stored.result_id, stored.sequence, stored.image_name, reason,
        )  # fmt: skip
        self._tell_moved()

    def _pause(self, reason: str) -> bool:
        """Back off. False when the shipper should end instead."""
        now, after = self._clock.monotonic(), self._sink.pace.problem_after_s
        if self._backoff.failures == 0:
            self._failing_since = now
            _LOG.debug("%s: %s; trying again", self._sink.name, reason)
        late = after is not None and now - self._failing_since >= after
        if late and self._health.raise_problem(self._problem, reason):
            _LOG.warning("%s: %s; results are kept and delivered later", self._problem, reason)
        pause_s = self._backoff.next_s()
        self._ledger.save_cursors()
        if self._stopping.is_set():
            return False
        self._woken.wait(pause_s)
        self._woken.clear()
        return True

    def _recovered(self) -> None:
        if self._backoff.failures:
            self._backoff.over()
            self._health.over(self._problem, "delivering again")

    def _keep_pace(self, started: float) -> None:
        """Let a few more results gather, so that one sync serves them together."""
        left = self._sink.pace.interval_s - (self._clock.monotonic() - started)
        if left > 0:
            self._stopping.wait(left)

    def _tell_moved(self) -> None:
        with self._moved:
            self._moved.notify_all()


def stop_all(shippers: Sequence[Shipper], deadline_s: float) -> bool:
    """Stop several at the same time: one that hangs does not use up the others' time. True when all drained."""
    drained: list[bool] = [False] * len(shippers)

    def stop(index: int) -> None:
        drained[index] = shippers[index].stop(deadline_s)

    threads = [threading.Thread(target=stop, args=(index,)) for index in range(len(shippers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return all(drained)
