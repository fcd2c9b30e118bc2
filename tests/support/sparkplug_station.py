"""The delivering half of a station that speaks Sparkplug."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent import config
from agent.clock import SystemClock
from agent.delivery.shipper import Shipper
from agent.delivery.sparkplug import SparkplugSink
from agent.ledger import Ledger
from agent.ports import Stored
from tests.support.mqtt_station import Watched
from tests.support.results import an_entry
from tests.support.sparkplug import Host

GROUP, NODE, DEVICE = "acme-detroit", "body-line-3-cam-07", "cam-07"


def settings(state: Path, port: int, mqtt: Any = None, **changes: Any) -> config.AgentConfig:
    """A configuration with a ``sparkplug`` section, as if read from a file."""
    section = {"broker": {"host": "127.0.0.1", "port": port}, **changes}
    station = {"name": "cam-07", "enterprise": "acme", "site": "detroit", "area": "body", "line": "line-3"}
    return config.parse(
        json.dumps(
            {
                "station": station,
                "state": str(state),
                "sources": [{"type": "folder", "name": "captures", "path": str(state.parent / "captures")}],
                "results": {"directory": str(state.parent / "results")},
                "mqtt": mqtt,
                "sparkplug": section,
            }
        )
    )


def host_of(port: int, **options: Any) -> Host:
    """A host application for this station's edge node."""
    return Host(port, GROUP, NODE, DEVICE, **options)


class SparkplugStation:
    """A ledger, its Sparkplug sink and the shipper between them."""

    def __init__(self, ledger: Ledger, folder: Path, port: int, **changes: Any) -> None:
        self.health, self.ledger = Watched(), ledger
        state = folder / "state"
        state.mkdir(exist_ok=True)
        self.sink = SparkplugSink(
            settings(state, port, **changes), self._newest, ("no defect", "defect"), self.health, SystemClock()
        )
        ledger.register(["sparkplug"])
        self.shipper = Shipper(self.sink, ledger, self.health, SystemClock())
        self.shipper.start()

    def _newest(self) -> Stored | None:
        return next(iter(self.ledger.after(self.ledger.last_sequence - 1, 1)), None)

    def commit(self, *numbers: int, **changes: Any) -> None:
        for number in numbers:
            self.ledger.commit([an_entry(number, **changes)])

    def committed(self) -> dict[str, Any]:
        """Every result of the ledger by its id, as JSON."""
        return {one.result_id: json.loads(one.body) for one in self.ledger.after(0, 1_000_000, 1 << 40)}

    def allow_births(self) -> None:
        """Let the pause after a birth be over."""
        session = self.sink._node.session(10)
        assert session._born_at is not None
        session._born_at -= 100
        session.wake.set()

    def stop(self) -> None:
        self.shipper.stop(2)


StartSparkplug = Callable[..., SparkplugStation]
