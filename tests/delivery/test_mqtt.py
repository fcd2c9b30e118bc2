"""The MQTT sink against a real mosquitto: order, status, outages, and twins."""

from __future__ import annotations

import json
import logging
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from agent.clock import SystemClock
from agent.delivery.mqtt.connection import Connection, Sent
from agent.delivery.mqtt.settings import Settings, client_id_for
from agent.ledger import Ledger
from tests.support.mosquitto import Listener, Mosquitto
from tests.support.mqtt_station import TOPIC, Start, Station, in_order, sequences
from tests.support.network import Wire

# --- the good days ---


def test_results_status_and_health_as_the_contract_says(broker: Mosquitto, station: Start) -> None:
    with Listener(broker.port, f"{TOPIC}/#") as listener:
        one = station(broker.port)
        one.commit(*range(50))
        assert one.shipper.wait_drained(20)
        one.sink.publish_health({"inspected": 50})
        listener.until(lambda heard: len(heard) >= 52)
        one.stop()
        listener.until(lambda heard: heard[-1].get("state") == "stopped")
        by_topic: dict[str, list[Any]] = {}
        for message in listener.messages:
            assert message.qos == 1
            assert message.properties is not None
            assert message.properties.ContentType == "application/json"
            assert not hasattr(message.properties, "MessageExpiryInterval")
            by_topic.setdefault(message.topic, []).append(json.loads(bytes(message.payload)))
    assert sequences(by_topic[f"{TOPIC}/result"]) == list(range(1, 51))
    assert by_topic[f"{TOPIC}/health"] == [{"inspected": 50}]
    online, *_, stopped = by_topic[f"{TOPIC}/status"]
    assert (online["state"], online["inspecting"], stopped["state"], stopped["inspecting"]) == (
        "online",
        True,
        "stopped",
        False,
    )
    assert online["session"] == stopped["session"]
    assert (
        set(online)
        == set(stopped)
        == {"state", "session", "since", "broker", "agent", "inspecting", "problems", "bundle", "sources"}
    )
    assert listener.json()[0]["state"] == "online", "birth before any result"
    with Listener(broker.port, f"{TOPIC}/#") as late:
        late.until(lambda heard: [message["state"] for message in heard] == ["stopped"])


def test_expiry_only_where_configured(broker: Mosquitto, station: Start) -> None:
    with Listener(broker.port, f"{TOPIC}/result") as listener:
        station(broker.port, message_expiry_s=600).commit(1)
        listener.until(lambda heard: len(heard) == 1)
        properties = listener.messages[0].properties
        assert properties is not None
        assert 0 < properties.MessageExpiryInterval <= 600


def test_a_change_of_health_is_on_the_status_topic(broker: Mosquitto, station: Start) -> None:
    with Listener(broker.port, f"{TOPIC}/status") as listener:
        one = station(broker.port)
        listener.until(lambda heard: bool(heard))
        one.health.raise_problem("disk_low", "1 MB")
        listener.until(lambda heard: heard[-1]["problems"] == ["disk_low"])


def test_the_brokers_own_window_is_honoured(tmp_path: Path, station: Start) -> None:
    with (
        Mosquitto(tmp_path / "narrow", lines=["max_inflight_messages 2"]) as broker,
        Listener(broker.port, f"{TOPIC}/result") as listener,
    ):
        one = station(broker.port)
        one.commit(*range(100))
        assert one.shipper.wait_drained(20)
        assert in_order(listener.until(lambda heard: len(heard) >= 100), 100)


@pytest.mark.parametrize(("broker_takes", "window"), [(65_535, 20), (22, 20), (21, 19), (3, 1), (2, 1), (1, 1)])
def test_the_window_leaves_room_for_status_and_health(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, station: Start, broker_takes: int, window: int
) -> None:
    """They are QoS 1 as well, and a broker may cut off who has more on the way than it takes (MQTT 5.0, 3.3.4)."""
    publish, wait = Connection.publish, Sent.wait
    flying: list[Sent] = []
    most = 0

    def counted(self: Connection, topic: str, *arguments: Any, **options: Any) -> Sent:
        nonlocal most
        sent = publish(self, topic, *arguments, **options)
        if topic.endswith("/result"):
            flying.append(sent)
            most = max(most, len(flying))
        return sent

    def waited(self: Sent, timeout: float) -> bool:
        if self in flying:
            flying.remove(self)
        return wait(self, timeout)

    monkeypatch.setattr(Connection, "publish", counted)
    monkeypatch.setattr(Sent, "wait", waited)
    with Mosquitto(tmp_path / "narrow", lines=[f"max_inflight_messages {broker_takes}"]) as broker:
        one = station(broker.port)
        one.commit(*range(100))
        assert one.shipper.wait_drained(20)
    assert most == window


# --- brokers that come and go ---


def test_a_broker_that_restarts_in_mid_stream_loses_nothing_and_keeps_the_order(tmp_path: Path, station: Start) -> None:
    lines = ["persistence true", f"persistence_location {tmp_path}/", "max_queued_messages 0"]
    with Mosquitto(tmp_path / "broker", lines=lines) as broker, Listener(broker.port, f"{TOPIC}/result") as listener:
        one = station(broker.port)
        for round_ in range(3):
            one.commit(*range(round_ * 1000, round_ * 1000 + 300))
            listener.until(lambda heard, least=round_ * 300 + 20: len(heard) > least)  # type: ignore[misc]
            broker.stop()
            broker.start()
        assert one.shipper.wait_drained(30)
        heard = listener.until(lambda heard: len(set(sequences(heard))) == 900)
        assert in_order(heard, 900)
        again = [message for message in listener.messages if message.dup]  # these the broker itself sent twice
        assert len(heard) - len(again) <= 900 + 3 * 20, "a window of 20 may come twice, no more"


def test_after_an_outage_the_status_says_so(tmp_path: Path, station: Start, caplog: pytest.LogCaptureFixture) -> None:
    broker = Mosquitto(tmp_path / "broker")
    with caplog.at_level(logging.INFO, "weldwatch"):
        one = station(broker.port)
        one.commit(1, 2)
        problems = one.health.until(lambda problems: "broker_away" in problems)
        assert "has nothing listening there; is the broker running" in problems["broker_away"]
        with broker, Listener(broker.port, f"{TOPIC}/status") as listener:
            heard = listener.until(lambda heard: bool(heard))
            assert heard[0]["problems"] == ["broker_was_away"]
            assert one.shipper.wait_drained(20)
            assert set(one.health.problems()) == {"broker_was_away"}
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len([line for line in warnings if "nothing listening" in line]) == 1, "one line, not one a try"


def test_a_killed_agent_is_offline_with_its_session(broker: Mosquitto) -> None:
    script = f"""
import sys
from agent.clock import SystemClock
from agent.config import MqttConfig
from agent.delivery.mqtt import MqttSink
from agent.health import Health
sink = MqttSink(MqttConfig(host="127.0.0.1", port={broker.port}), {TOPIC!r}, dict, Health(), SystemClock())
sink.open(lambda: None)
sys.stdin.read()
"""
    with (
        Listener(broker.port, f"{TOPIC}/status") as listener,
        subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, cwd=Path(__file__).parents[2]) as agent,
    ):
        (online,) = listener.until(lambda heard: len(heard) == 1)
        agent.send_signal(signal.SIGKILL)
        online, offline = listener.until(lambda heard: len(heard) == 2)
    assert (online["state"], offline["state"]) == ("online", "offline")
    assert online["session"] == offline["session"]


def test_a_late_offline_of_its_own_is_answered(broker: Mosquitto, station: Start) -> None:
    with Listener(broker.port, f"{TOPIC}/status") as listener:
        station(broker.port)
        listener.until(lambda heard: len(heard) == 1)
        listener._client.publish(f"{TOPIC}/status", json.dumps({"state": "offline", "session": "x"}), 1, True)
        listener.until(lambda heard: [status["state"] for status in heard] == ["online", "offline", "online"])
        listener._client.publish(f"{TOPIC}/status", b"", 1, True)  # somebody clears the retained message
    with Listener(broker.port, f"{TOPIC}/status") as late:
        late.until(lambda heard: [status["state"] for status in heard] == ["online"])


@pytest.mark.parametrize("nonsense", [b'{"state": "\xff"}', b'{"x": ' + b"[" * 100_000, b"[1]"])
def test_nonsense_on_its_status_topic_is_answered_like_an_offline(
    broker: Mosquitto, station: Start, caplog: pytest.LogCaptureFixture, nonsense: bytes
) -> None:
    said: queue.Queue[bytes] = queue.Queue()
    anybody = Connection(
        Settings("127.0.0.1", broker.port, "anybody", 15), on_message=lambda one: said.put(one.payload)
    )
    station(broker.port)
    anybody.open()
    anybody.subscribe(f"{TOPIC}/status")
    assert b'"online"' in said.get(timeout=10)
    anybody.publish(f"{TOPIC}/status", nonsense, retain=True)
    assert said.get(timeout=10) == nonsense
    assert b'"online"' in said.get(timeout=10), "the truth stands there again"
    anybody.goodbye()
    assert "message_fault" not in caplog.text


def test_a_second_station_under_the_same_name_is_an_alarm_and_no_duel(
    broker: Mosquitto, tmp_path: Path, station: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """mosquitto 2.0.11 does not tell the one that is taken over; the stations see each other's status."""
    second_ledger = Ledger.open(tmp_path / "second", SystemClock())
    with Wire(broker.port) as wire:
        one = station(wire.port)
        one.commit(1)
        assert one.shipper.wait_drained(20)
        two = Station(second_ledger, wire.port)
        raised = threading.Event()
        for health in (one.health, two.health):
            health.on_change(lambda health=health: "client_id_taken_over" in health.problems() and raised.set())  # type: ignore[misc]
        assert raised.wait(20)
        connections = wire.connections
        assert connections < 15
        with wire.changed:
            assert not wire.changed.wait_for(lambda: wire.connections > connections + 4, 3), "peace for some seconds"
        two.stop()
    second_ledger.close()
    said = [record for record in caplog.records if "client_id_taken_over" in record.getMessage()]
    assert "does a second station have the same mqtt.topic or mqtt.client_id?" in said[0].getMessage()
    assert {record.levelname for record in said} == {"ERROR"}


def test_any_other_client_under_the_same_id_makes_no_hot_loop(broker: Mosquitto, station: Start) -> None:
    with Wire(broker.port) as wire:
        one = station(wire.port)
        one.commit(1)
        assert one.shipper.wait_drained(20)
        twin = Client(CallbackAPIVersion.VERSION2, client_id=client_id_for(TOPIC), protocol=MQTTv5)
        twin.reconnect_delay_set(1, 1)
        twin.connect("127.0.0.1", broker.port)
        twin.loop_start()
        problems = one.health.until(lambda problems: "connection_unstable" in problems)
        assert client_id_for(TOPIC) in problems["connection_unstable"]
        assert wire.connections < 10
        twin.disconnect()
        twin.loop_stop()
