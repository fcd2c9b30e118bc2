"""The MQTT sink against a real mosquitto: order, status, and each kind of trouble by its name."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from agent.clock import SystemClock
from agent.config import MqttConfig, TlsConfig
from agent.delivery.mqtt import MqttSink, probe
from agent.delivery.mqtt.settings import client_id_for
from agent.delivery.shipper import Shipper
from agent.errors import UsageError
from agent.health import Health
from agent.ledger import Ledger
from tests.support.certificates import authority
from tests.support.mosquitto import Listener, Mosquitto, free_port, passwords
from tests.support.network import Wire, silent_listener
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

    def until(self, condition: Callable[[dict[str, str]], bool], timeout: float = 20.0) -> dict[str, str]:
        with self.changed:
            assert self.changed.wait_for(lambda: condition(self.problems()), timeout), self.problems()
        return self.problems()


class Station:
    """A ledger, its MQTT sink and the shipper between them."""

    def __init__(self, ledger: Ledger, port: int, **config: Any) -> None:
        self.health, self.ledger = Watched(), ledger
        settings = MqttConfig(host="127.0.0.1", port=port, **config)
        self.sink = MqttSink(settings, TOPIC, self._status, self.health, SystemClock())
        self.health.on_change(self.sink.publish_status)
        ledger.register(["mqtt"])
        self.shipper = Shipper(self.sink, ledger, self.health, SystemClock())
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
        self.ledger.commit([an_entry(n, **changes) for n in numbers])

    def stop(self) -> None:
        self.shipper.stop(2)


@pytest.fixture
def station(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Station]]:
    monkeypatch.setattr("agent.delivery.mqtt.sink._QUIET_S", 0.05)
    monkeypatch.setattr("agent.delivery.mqtt.keeper._BACKOFF_S", (0.05, 1.0))
    stations: list[Station] = []

    def start(port: int, **config: Any) -> Station:
        stations.append(Station(ledger, port, **config))
        return stations[-1]

    yield start
    for one in stations:
        one.stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker") as broker:
        yield broker


Start = Callable[..., Station]


def sequences(heard: list[Any]) -> list[int]:
    return [result["sequence"] for result in heard]


def in_order(heard: list[Any], count: int) -> bool:
    """Each sequence is there, and first came in order; what came again came under its id."""
    ids = {result["sequence"]: result["result_id"] for result in heard}
    assert all(ids[result["sequence"]] == result["result_id"] for result in heard)
    return list(dict.fromkeys(sequences(heard))) == list(range(1, count + 1))


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
        == {"state", "session", "since", "agent", "inspecting", "problems", "bundle", "sources"}
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


# --- brokers that refuse ---


def test_a_wrong_password_is_said_once_and_a_corrected_one_is_taken_up(
    tmp_path: Path, station: Start, caplog: pytest.LogCaptureFixture
) -> None:
    lines = passwords(tmp_path / "broker", cam="right")
    secret = tmp_path / "secret"
    secret.write_text("wrong-horse\n")
    with Mosquitto(tmp_path / "broker", anonymous=False, lines=lines) as broker:
        one = station(broker.port, username="cam", password_file=str(secret))
        problems = one.health.until(lambda problems: "broker_away" in problems)
        assert "user 'cam'" in problems["broker_away"]
        assert "check mqtt.username" in problems["broker_away"]
        one.commit(1)
        secret.write_text("right\n")
        assert one.shipper.wait_drained(30)
    assert "horse" not in caplog.text
    assert len([record for record in caplog.records if "user 'cam'" in record.getMessage()]) == 1


def test_a_denied_topic_is_an_error_with_its_name_and_everything_is_kept(
    tmp_path: Path, station: Start, caplog: pytest.LogCaptureFixture
) -> None:
    acl = tmp_path / "acl"
    acl.write_text(f"user cam\ntopic read #\ntopic write {TOPIC}/status\n")
    lines = [*passwords(tmp_path / "broker", cam="right"), f"acl_file {acl}"]
    (tmp_path / "secret").write_text("right")
    with Mosquitto(tmp_path / "broker", anonymous=False, lines=lines) as broker:
        one = station(broker.port, username="cam", password_file=str(tmp_path / "secret"))
        one.commit(*range(30))
        problems = one.health.until(lambda problems: "publish_denied" in problems)
        assert f"user cam publish to {TOPIC}/result" in problems["publish_denied"]
        assert one.ledger.cursor("mqtt") == 0
        assert one.ledger.dead() == []
        broker.stop()
        acl.write_text(f"user cam\ntopic read #\ntopic write {TOPIC}/#\n")
        broker.start()
        assert one.shipper.wait_drained(30)
        assert "publish_denied" not in one.health.problems()
    assert [r.levelname for r in caplog.records if "publish_denied" in r.getMessage()] == ["ERROR"]


@pytest.mark.parametrize("limit", ["max_packet_size 8000", "message_size_limit 8000"])
def test_an_oversized_result_is_a_dead_letter_and_the_rest_goes_on(tmp_path: Path, station: Start, limit: str) -> None:
    with (
        Mosquitto(tmp_path / "broker", lines=[limit]) as broker,
        Listener(broker.port, f"{TOPIC}/result") as listener,
    ):
        one = station(broker.port)
        one.commit(1, 2)
        one.commit(3, labels=["no defect", "d" * 9000])
        one.commit(4, 5)
        assert one.shipper.wait_drained(60)
        listener.until(lambda heard: list(dict.fromkeys(sequences(heard))) == [1, 2, 4, 5])
        (letter,) = one.ledger.dead("mqtt")
        assert letter.sequence == 3
        assert one.health.counters()["mqtt_rejected"] == 1


def test_a_result_that_breaks_every_connection_is_given_up_and_no_other(broker: Mosquitto, station: Start) -> None:
    with Wire(broker.port, cuts=lambda data: b"poison" in data) as wire:
        one = station(wire.port)
        one.commit(*range(10))
        one.commit(10, name="poison.png")
        one.commit(*range(11, 20))
        assert one.shipper.wait_drained(60)
        (letter,) = one.ledger.dead("mqtt")
        assert (letter.sequence, letter.reason) == (
            11,
            "the broker ended the connection 5 times in a row when it was sent",
        )


def test_a_broker_that_comes_and_goes_buries_nothing(broker: Mosquitto, station: Start) -> None:
    """Every connection breaks at the first result, but only after it broke by itself as often: nothing is proven."""
    seen = [0]

    def cuts(data: bytes) -> bool:
        if b"weldwatch.result/1" in data:
            seen[0] += 1
            return seen[0] <= 4 or 6 <= seen[0] <= 9
        return False

    with Wire(broker.port, cuts=cuts) as wire:
        one = station(wire.port)
        one.commit(*range(3))
        assert one.shipper.wait_drained(60)
        assert one.ledger.dead() == []


# --- addresses and certificates ---


def test_what_is_no_broker_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.delivery.mqtt.connection.CONNECT_TIMEOUT_S", 0.3)

    def trouble(**config: Any) -> str:
        found = probe(MqttConfig(**{"host": "127.0.0.1", **config}), TOPIC)
        assert found is not None
        return found

    assert "has nothing listening there" in trouble(port=free_port())
    assert "is a name that nobody knows; check mqtt.host" in trouble(host="no-such-host.invalid", port=1883)
    with silent_listener() as port:
        assert "took the connection but did not answer within 0.3 s" in trouble(port=port)


def test_the_probe_does_not_disturb_the_station(broker: Mosquitto, station: Start) -> None:
    one = station(broker.port)
    one.commit(1)
    assert one.shipper.wait_drained(20)
    assert probe(MqttConfig(host="127.0.0.1", port=broker.port), TOPIC) is None
    one.commit(2)
    assert one.shipper.wait_drained(20)
    assert one.health.problems() == {}


def test_certificates(tmp_path: Path, station: Start) -> None:
    ours, theirs = authority(tmp_path / "ours"), authority(tmp_path / "theirs")
    cert, key = ours.issue("cam-07")

    def server(name: str, **how: str) -> Mosquitto:
        certificate, private = ours.issue(name, **how)
        lines = [f"cafile {ours.ca}", f"certfile {certificate}", f"keyfile {private}", "require_certificate true"]
        private.chmod(0o644)
        ours.folder.chmod(0o755)
        return Mosquitto(tmp_path / name, lines=lines)

    def trouble(broker: Mosquitto, **tls: Any) -> str | None:
        paths = {name: str(path) for name, path in tls.items()}
        return probe(MqttConfig(host="127.0.0.1", port=broker.port, tls=TlsConfig(**paths)), TOPIC)

    with server("good") as broker:
        one = station(broker.port, tls=TlsConfig(ca=str(ours.ca), cert=str(cert), key=str(key)))
        one.commit(1)
        assert one.shipper.wait_drained(20), one.health.problems()
        assert "certificate that is not trusted" in str(trouble(broker, ca=theirs.ca, cert=cert, key=key))
        assert "client certificate" in str(trouble(broker, ca=ours.ca))
    with server("expired", days="-1") as broker:
        assert "certificate has expired" in str(trouble(broker, ca=ours.ca, cert=cert, key=key))
    with server("misnamed", host="10.0.0.1") as broker:
        assert "IP address mismatch" in str(trouble(broker, ca=ours.ca, cert=cert, key=key))
    with Mosquitto(tmp_path / "plain") as broker:
        assert "does it speak TLS on this port" in str(trouble(broker, ca=ours.ca))


def test_files_that_are_not_there_are_usage_errors(tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("not a certificate")
    for config, said in (
        (MqttConfig(host="b", tls=TlsConfig(ca="/nowhere/ca.pem")), r"mqtt\.tls\.ca: /nowhere/ca\.pem: no such file"),
        (MqttConfig(host="b", tls=TlsConfig(ca=str(tmp_path / "no.pem"))), r"mqtt\.tls\.ca: .*no\.pem: not usable"),
        (MqttConfig(host="b", username="u", password_file="/nowhere/secret"), r"mqtt\.password_file: /nowhere/secret"),
        (MqttConfig(host="b", username="u", password_env="NO_SUCH_VARIABLE"), r"environment has no NO_SUCH_VARIABLE"),
    ):
        with pytest.raises(UsageError, match=said):
            MqttSink(config, TOPIC, dict, Health(), SystemClock())


def test_a_client_id_is_stable_readable_and_short() -> None:
    assert client_id_for(TOPIC) == client_id_for(TOPIC)
    assert client_id_for(TOPIC).startswith("weldwatch-acme-detroit-body-line-3-cam-07-")
    long = [client_id_for(f"{'x' * 300}/cam-{n}") for n in (1, 2)]
    assert long[0] != long[1]
    assert all(len(one) <= 60 for one in long)
    assert client_id_for("Straße/Öl") != client_id_for("Strase/Ol")
