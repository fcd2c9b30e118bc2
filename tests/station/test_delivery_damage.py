"""A ledger that is found damaged while the line runs: set aside with an alarm, and inspection goes on by itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.ledger.database import FILE
from tests.support.backlog import fill
from tests.support.bundles import flat_png
from tests.support.mosquitto import Listener, Mosquitto
from tests.support.station import Station, until


def overwrite(ledger: Path) -> None:
    """All pages but the first, as a dying disk does it."""
    with ledger.open("r+b") as file:
        size = file.seek(0, 2)
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))


@pytest.mark.parametrize("undelivered", [5000, 0])
def test_damage_met_while_running_is_set_aside_and_inspection_goes_on(
    tmp_path: Path, undelivered: int, figure: Callable[[str], None]
) -> None:
    """With results that a sink has still to read, and with none, where a commit meets it."""
    broker = Mosquitto(tmp_path / "broker")
    station = Station(tmp_path / "station", mqtt={"host": broker.host, "port": broker.port})
    state = Path(station.settings["state"])
    old = fill(state, 5000, {"files": 5000, "mqtt": 5000 - undelivered})

    def anew() -> list[dict[str, Any]]:
        return [one for one in station.lines() if one["ledger_id"] != old]

    with station.running() as agent:
        station.put("before.png", flat_png(1))
        station.wait_for(1)
        overwrite(state / FILE)
        begin = time.monotonic()
        with broker, Listener(broker.port, f"{station.topic}/#") as listener:
            for number in range(5):
                station.put(f"{number}.png", flat_png(number))
            until(lambda: {f"{number}.png" for number in range(5)} <= names(anew()), "their results, in a new ledger")
            figure(f"inspecting again {time.monotonic() - begin:.1f} s after the damage")
            listener.until(lambda heard: any("ledger_set_aside" in one.get("problems", ()) for one in heard))
            listener.until(
                lambda heard: {one["result_id"] for one in anew()} <= {one.get("result_id") for one in heard}
            )
        assert agent.poll() is None, "it is the same process still"
    assert [one["sequence"] for one in anew()] == list(range(1, len(anew()) + 1))
    assert len(list(state.glob("ledger-damaged-*.sqlite3"))) == 1
    log = station.log.read_text()
    assert log.count(" ledger_damaged") == log.count(" ledger_set_aside") == 1
    assert "Traceback" not in log


def names(results: list[dict[str, Any]]) -> set[str]:
    return {one["image"]["name"] for one in results}
