"""A station's agent in the test's own process, for faults that cannot be brought about from outside."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta

from agent.app.agent import Agent
from agent.clock import Clock, SystemClock
from agent.config import load
from tests.support.station import Station


class SetClock(SystemClock):
    """The machine's clock, until somebody sets it."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        return super().now() + self.ahead


@contextlib.contextmanager
def running_inside(station: Station, clock: Clock | None = None) -> Iterator[Agent]:
    """The agent while the block lasts; wants it to end well."""
    agent, ended = Agent(load(station.file), clock=clock), list[int]()
    thread = threading.Thread(target=lambda: ended.append(agent.run()), name="agent")
    thread.start()
    try:
        assert agent.ready.wait(30)
        yield agent
    finally:
        agent.stop()
        thread.join(30)
    assert ended == [0]
