"""The delivering half of a station, with health that a test can wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from agent.app.commands import Commands, Order
from agent.clock import SystemClock
from agent.config import MqttConfig
from agent.delivery.mqtt import MqttSink
from agent.delivery.replays import Replays
from agent.delivery.shipper import Shipper
from agent.health import Health
from agent.ledger import Ledger
from tests.support.results import an_entry

TOPIC = "weldwatch/acme/detroit/body/line-3/cam-07"


class Watched(Health):
    """A health whose changes a test can wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.changed = threading.Condition()
        self.on_change(self._notify)

    def _notify(self) -> None:
        with self.changed:
            self.changed.notify_all()

    def count(self, name: str, by: int = 1, **labels: str) -> None:
        super().count(name, by, **labels)
        self._notify()

    def until_counted(self, name: str, least: int = 1, timeout: float = 20.0) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.counters().get(name, 0) >= least, timeout), self.counters()

    def until(self, condition: Callable[[dict[str, str]], bool], timeout: float = 20.0) -> dict[str, str]:
        with self.changed:
            assert self.changed.wait_for(lambda: condition(self.problems()), timeout), self.problems()
        return self.problems()


class Station:
    """A ledger, its MQTT sink and the shipper between them."""

    def __init__(
        self,
        ledger: Ledger,
        port: int | None,
        orders: Mapping[str, Order[Any]] | None = None,
        replays: Replays | None = None,
        **config: Any,
    ) -> None:
        self.health, self.ledger = Watched(), ledger
        settings = MqttConfig(**{"host": "127.0.0.1" if port else None, "port": port, **config})
        self.commands = Commands(orders or {}, settings.commands, self.health, SystemClock())
        self.commands.start()
        taken = partial(self.ledger.last_taken, "mqtt")
        self.sink = MqttSink(settings, TOPIC, self._status, self.health, SystemClock(), self.commands, taken=taken)
        self.health.on_change(self.sink.publish_status)
        ledger.register(["mqtt"])
        self.shipper = Shipper(self.sink, ledger, self.health, SystemClock(), replays)
        self.shipper.start()

    def _status(self) -> dict[str, Any]:
        return {
            "agent": "0.1.0",
            "inspecting": True,
            "problems": list(self.health.problems()),
            "bundle": {},
            "sources": [],
        }

    def commit(self, *numbers: int, **changes: Any) -> None:
        self.sink.tell_live(self.ledger.commit([an_entry(n, **changes) for n in numbers]))

    def stop(self) -> None:
        self.commands.stop()
        self.shipper.stop(2)


Start = Callable[..., Station]


def sequences(heard: list[Any]) -> list[int]:
    return [result["sequence"] for result in heard]


def in_order(heard: list[Any], count: int) -> bool:
    """Each sequence is there, and first came in order; what came again came under its id."""
    ids = {result["sequence"]: result["result_id"] for result in heard}
    assert all(ids[result["sequence"]] == result["result_id"] for result in heard)
    return list(dict.fromkeys(sequences(heard))) == list(range(1, count + 1))
