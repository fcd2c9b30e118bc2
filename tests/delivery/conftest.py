"""A ledger, a health and a clock for what delivers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.clock import SystemClock
from agent.health import Health
from agent.ledger import Ledger
from tests.support.mosquitto import Mosquitto
from tests.support.mqtt_station import Station
from tests.support.sparkplug_station import SparkplugStation, StartSparkplug


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger.open(tmp_path / "state", SystemClock())
    yield ledger
    ledger.close()


@pytest.fixture
def station(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Station]]:
    monkeypatch.setattr("agent.delivery.mqtt.sink._QUIET_S", 0.05)
    monkeypatch.setattr("agent.delivery.mqtt.audience._WAIT_AT_FIRST_S", 0.0)
    monkeypatch.setattr("agent.delivery.mqtt.keeper._BACKOFF_S", (0.05, 1.0))
    stations: list[Station] = []

    def start(port: int | None, **config: Any) -> Station:
        stations.append(Station(ledger, port, **config))
        return stations[-1]

    yield start
    for one in stations:
        one.stop()


@pytest.fixture
def sparkplug(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StartSparkplug]:
    monkeypatch.setattr("agent.delivery.sparkplug.node._BACKOFF_S", (0.05, 0.5))
    stations: list[SparkplugStation] = []

    def start(port: int, **changes: Any) -> SparkplugStation:
        stations.append(SparkplugStation(ledger, tmp_path, port, **changes))
        return stations[-1]

    yield start
    for one in stations:
        one.stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker") as broker:
        yield broker
