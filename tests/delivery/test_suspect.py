"""A result that ends connections is found out whatever came before it in this life, and whatever else is sent again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import pytest

from agent.clock import ManualClock
from agent.config import MqttConfig
from agent.delivery.mqtt import sink as module
from agent.delivery.mqtt.messages import End, Sent
from agent.errors import RejectError, RetryError
from agent.health import Health
from agent.ports import Stored


class Played:
    """A connection to a broker that hangs up at what says poison."""

    receive_max, proven, birth = 65_535, True, None
    settings = SimpleNamespace(address="broker.example:1883")

    def __init__(self) -> None:
        self.ended, self.end = threading.Event(), None

    def takes(self, *_: object) -> bool:
        return True

    def publish(self, _topic: str, body: bytes, **_options: object) -> Sent:
        sent = Sent()
        if self.end is None and b"poison" in body:
            self.end = End("closed the connection", by_broker=True)  # type: ignore[assignment]
            self.ended.set()
        sent.finish(0 if self.end is None else None)
        return sent


class Line:
    """The sink with one connection after the other."""

    def __init__(self, taken: Callable[[], Stored | None]) -> None:
        self.clock, self.current = ManualClock(datetime.now(timezone.utc)), Played()
        config = MqttConfig(host="broker.example")
        self.sink = module.MqttSink(config, "t", dict, Health(), self.clock, taken=taken)
        self.sink._keeper = self  # type: ignore[assignment]
        self.cause = "away"
        self.dead: list[int] = []

    def connection(self, _wait_s: float) -> Any:
        if self.current.end is not None:
            self.current = Played()
        return self.current

    def step(self, deliver: Callable[[Sequence[Stored]], int], queue: list[Stored]) -> None:
        if not queue:
            return
        try:
            del queue[: deliver(queue)]
        except RejectError:
            self.dead.append(queue.pop(0).sequence)
        except RetryError:
            pass
        finally:
            self.sink.doubt()


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_QUIET_S", 0)


def a_result(number: int, says: str = "") -> Stored:
    return Stored(number, f"id{number}", "2026-11-22T10:00:00.000Z", f"{number}.png", f"x{says}".encode())


def test_two_in_a_row_at_the_begin_of_a_life_are_found_out_by_what_was_delivered_before_it() -> None:
    line = Line(lambda: a_result(1))
    queue = [a_result(2, "poison"), a_result(3, "poison"), a_result(4), a_result(5)]
    for _ in range(30):
        line.step(line.sink.deliver, queue)
    assert (line.dead, queue) == ([2, 3], [])


def test_on_a_line_that_never_delivered_anything_one_is_given_up_at_most() -> None:
    line = Line(lambda: None)
    queue = [a_result(number, "poison") for number in range(1, 6)]
    for _ in range(60):
        line.step(line.sink.deliver, queue)
    assert line.dead == [1]


def test_one_that_is_sent_again_does_not_keep_the_fresh_one_from_being_found_out() -> None:
    line = Line(lambda: a_result(1))
    fresh, again = [a_result(100, "poison"), a_result(101)], [a_result(5, "poison"), a_result(6)]
    for _ in range(30):
        line.step(line.sink.deliver_again, again)
        line.step(line.sink.deliver, fresh)
    assert (sorted(line.dead), fresh, again) == ([5, 100], [], [])
