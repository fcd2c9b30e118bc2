"""Networks that swallow packets and brokers that fall silent: noticed in time, nothing lost, no core burnt."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import MQTTMessage

from agent.clock import SystemClock
from agent.config import MqttConfig
from agent.delivery.mqtt import MqttSink
from agent.health import Health
from tests.support.mosquitto import Listener, Mosquitto
from tests.support.mqtt_station import TOPIC, Start, in_order, sequences
from tests.support.network import Island, Wire
from tests.support.results import stored

pytestmark = pytest.mark.quiet

KEEPALIVE_S = 4


@pytest.mark.slow
@pytest.mark.parametrize("busy", [True, False], ids=["while results flow", "while nothing flows"])
def test_a_cut_without_a_reset_is_noticed_within_one_and_a_half_keepalives_and_nothing_is_lost(
    tmp_path: Path, station: Start, busy: bool, figure: Callable[[str], None]
) -> None:
    with Island() as island, Mosquitto(tmp_path / "broker", host=island.host, within=island.within) as broker:
        one = station(broker.port, host=island.host, keepalive_s=KEEPALIVE_S)
        with Listener(broker.port, f"{TOPIC}/result", host=island.host) as mes:
            one.commit(*range(100))
            assert one.shipper.wait_drained(20)
            island.cut()
            begin = time.monotonic()
            if busy:
                one.commit(*range(100, 300))
            problems = one.health.until(lambda problems: "broker_away" in problems)
            noticed_s = time.monotonic() - begin
            one.commit(*range(300, 400))
            island.join()
            total = 400 if busy else 200
            heard = mes.until(lambda heard: len(set(sequences(heard))) == total, 60)
            assert one.shipper.wait_drained(20)
            one.stop()
    figure(f"noticed after {noticed_s:.1f} s, {noticed_s / KEEPALIVE_S:.2f} keepalives")
    assert noticed_s <= 1.5 * KEEPALIVE_S, problems
    assert "did not answer" in problems["broker_away"], "nobody closed anything"
    assert in_order(heard, total)
    assert len(heard) - total <= 20 + 100, "twice comes a window at most, and what the broker took in its last second"


@pytest.mark.parametrize("busy", [True, False], ids=["while results flow", "while nothing flows"])
def test_a_broker_that_takes_everything_and_answers_nothing_is_left(
    broker: Mosquitto, station: Start, monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    """Its kernel acknowledges what its process never reads: only the missing answers tell."""
    monkeypatch.setattr("agent.delivery.mqtt.sink._PUBACK_S", 1.0)
    with Wire(broker.port) as wire, Listener(broker.port, f"{TOPIC}/result") as mes:
        one = station(wire.port, keepalive_s=2)
        one.commit(*range(50))
        assert one.shipper.wait_drained(20)
        wire.to_client.clear()
        if busy:
            one.commit(*range(50, 100))
        spent = time.process_time()
        problems = one.health.until(lambda problems: "broker_away" in problems)
        wanted = "answered no PUBLISH within 1 s" if busy else "did not answer a ping"
        assert wanted in problems["broker_away"]
        assert time.process_time() - spent < 1.0
        wire.to_client.set()
        one.commit(*range(100, 150))
        total = 150 if busy else 100
        assert in_order(mes.until(lambda heard: len(set(sequences(heard))) == total), total)


def test_what_is_live_is_dropped_when_the_connection_stands_still(broker: Mosquitto, station: Start) -> None:
    """Never waited for, and never gathered in memory."""
    with Wire(broker.port) as wire:
        one = station(wire.port, live=True)
        assert one.sink._keeper.connection(10) is not None, "what is told before there is one is dropped"
        one.commit(1)
        one.health.until_counted("live_sent")
        wire.to_broker.clear()
        begin = time.monotonic()
        for number in range(2, 402):
            one.commit(number, labels=["no defect", "d" * 100_000])
        assert time.monotonic() - begin < 10, "committing waits for nobody"
        counters = one.health.counters()
        assert counters["live_dropped"] > 200
        assert len(one.sink._live._unsent) <= 50  # type: ignore[union-attr]
        wire.to_broker.set()
        one.health.until(lambda problems: "broker_away" not in problems)


def _is_last(message: MQTTMessage) -> bool:
    return message.topic.endswith("/result") and json.loads(bytes(message.payload))["sequence"] == 5001


def test_a_fresh_verdict_is_live_before_the_backlog_is_through(
    tmp_path: Path, station: Start, figure: Callable[[str], None]
) -> None:
    broker = Mosquitto(tmp_path / "broker", lines=["max_queued_messages 0"])
    one = station(broker.port, live=True)
    for start in range(0, 5000, 500):
        one.commit(*range(start, start + 500))
    assert one.health.counters()["live_dropped"] == 5000, "not connected: dropped and counted"
    with broker, Listener(broker.port, f"{TOPIC}/+") as mes:
        one.health.until_counted("mqtt_delivered")
        one.commit(5000)
        assert one.shipper.wait_drained(60)
        with mes.changed:
            mes.changed.wait_for(lambda: any(map(_is_last, mes.messages[-3:])), 20)
        told = [(message, json.loads(bytes(message.payload))) for message in mes.messages]
    arrived = [(message.topic.rpartition("/")[2], body["sequence"]) for message, body in told if "sequence" in body]
    assert all((one.qos, one.retain) == (0, False) for one, _ in told if one.topic.endswith("/live"))
    assert [sequence for name, sequence in arrived if name == "result"] == list(range(1, 5002))
    live = arrived.index(("live", 5001))
    figure(f"live as message {live} of {len(arrived)}, its result as message {arrived.index(('result', 5001))}")
    assert live < arrived.index(("result", 5001)) - 500, f"the {live}th of {len(arrived)} messages"
    assert one.health.counters()["live_sent"] == 1


def test_without_live_nothing_is(broker: Mosquitto, station: Start) -> None:
    with Listener(broker.port, f"{TOPIC}/live") as mes:
        one = station(broker.port)
        one.commit(1)
        assert one.shipper.wait_drained(20)
    assert mes.messages == []


def test_a_sink_that_was_never_opened_drops_what_is_live() -> None:
    health = Health()
    sink: Any = MqttSink(MqttConfig(host="b", live=True), TOPIC, dict, health, SystemClock())
    sink.tell_live([stored(1)])
    assert health.counters()["live_dropped"] == 1
