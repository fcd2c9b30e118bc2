"""Fakes beside the ports. ``tests/delivery/test_sinks.py`` holds them to the same suite as the real ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from agent.errors import RejectError, RetryError
from agent.ports import Pace, Stored


class FakeSink:
    """A far end in memory that can be made to be away, to refuse, and to stand still."""

    def __init__(self, name: str = "fake", pace: Pace | None = None) -> None:
        self.name = name
        self.pace = pace or Pace(batch=10, backoff_max_s=0.05, problem_after_s=0.0)
        self.taken: list[Stored] = []
        self.again: list[Stored] = []  #: what ``deliver_again`` took
        self.again_away: str | None = None  #: why every ``deliver_again`` ends in RetryError
        self.away: str | None = None  #: why every call ends in RetryError
        self.refuses: set[int] = set()  #: sequences that are never taken
        self.at_most: int | None = None  #: results a call
        self.doubts: list[int] = []  #: what ``doubt`` will tell
        self.gate = threading.Event()  #: cleared: deliver blocks until it is set or the sink is closed
        self.gate.set()
        self.changed = threading.Condition()
        self.calls = self.closed = 0
        self.wake: Callable[[], None] = lambda: None

    def open(self, wake: Callable[[], None]) -> None:
        self.wake = wake

    def doubt(self) -> int | None:
        return self.doubts.pop(0) if self.doubts else None

    def close(self) -> None:
        self.closed += 1
        self.gate.set()

    def deliver(self, batch: Sequence[Stored]) -> int:
        with self.changed:
            self.calls += 1
            self.changed.notify_all()
        self.gate.wait()
        if self.away is not None:
            raise RetryError(self.away)
        accepted = 0
        for one in batch[: self.at_most]:
            if one.sequence in self.refuses:
                if accepted == 0:
                    raise RejectError("the far end never takes this one")
                break
            accepted += 1
        with self.changed:
            self.taken.extend(batch[:accepted])
            self.changed.notify_all()
        return accepted

    def deliver_again(self, batch: Sequence[Stored]) -> int:
        if self.again_away is not None:
            raise RetryError(self.again_away)
        if batch[0].sequence in self.refuses:
            raise RejectError("the far end never takes this one")
        accepted = list(batch[: self.at_most])
        with self.changed:
            self.again.extend(accepted)
            self.changed.notify_all()
        return len(accepted)

    def until(self, condition: Callable[[], bool], timeout: float = 20.0) -> None:
        """Wait for something that a ``deliver`` brings about."""
        with self.changed:
            assert self.changed.wait_for(condition, timeout), "the sink was not fed as expected"

    @property
    def sequences(self) -> list[int]:
        return [one.sequence for one in self.taken]
