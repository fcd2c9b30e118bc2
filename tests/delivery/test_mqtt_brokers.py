"""Several brokers in order, and MQTT 3.1.1 with what it cannot say."""

from __future__ import annotations

import json
import logging
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from agent.config import BrokerConfig, MqttConfig, TlsConfig, parse
from agent.delivery.mqtt import probe
from agent.errors import ConfigError
from agent.ledger import Ledger
from tests.support.certificates import authority
from tests.support.mosquitto import Listener, Mosquitto, passwords
from tests.support.mqtt_station import TOPIC, Start, sequences
from tests.support.network import Wire, silent_listener
from tests.support.ports import free_port

pytestmark = pytest.mark.quiet


@pytest.fixture(autouse=True)
def soon_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.delivery.mqtt.brokers.LOOK_AGAIN_S", 0.2)


def brokers(*ports: int) -> tuple[BrokerConfig, ...]:
    return tuple(BrokerConfig(host="127.0.0.1", port=port) for port in ports)


def states(listener: Listener) -> list[tuple[str, str]]:
    return [(status["state"], status["broker"]) for status in listener.json()]


def test_the_first_that_answers_is_used_and_the_first_is_gone_back_to(
    tmp_path: Path, station: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "weldwatch")
    first, second = (Mosquitto(tmp_path / name, lines=["max_queued_messages 0"]) for name in ("first", "second"))
    a, b = (f"127.0.0.1:{broker.port}" for broker in (first, second))
    with ExitStack() as stack:
        stack.enter_context(second)
        at_second = stack.enter_context(Listener(second.port, f"{TOPIC}/+"))
        one = station(None, brokers=brokers(first.port, second.port))
        one.commit(*range(50))
        assert one.shipper.wait_drained(20)
        problems = one.health.problems()
        assert set(problems) == {"broker_fallback"}, "not broker_away: one of them is there"
        assert problems["broker_fallback"].startswith(f"broker {a} has nothing listening there")
        assert problems["broker_fallback"].endswith(f"broker {b} is used meanwhile")
        stack.enter_context(first)
        at_first = stack.enter_context(Listener(first.port, f"{TOPIC}/+"))
        one.health.until(lambda problems: "broker_fallback" not in problems)
        one.commit(*range(50, 100))
        assert one.shipper.wait_drained(20)
        heard = at_first.until(lambda heard: any(message.get("sequence") == 100 for message in heard))
        heard += at_second.json()
        status = [message for message in at_second.json() if "state" in message]
        one.stop()
    assert {message["sequence"] for message in heard if "sequence" in message} == set(range(1, 101))
    assert (status[0]["state"], status[0]["broker"], status[0]["problems"]) == ("online", b, ["broker_fallback"])
    assert (status[-1]["state"], status[-1]["broker"]) == ("offline", b), "at the one that was left"
    assert f"broker {a} answers again; going back to it" in caplog.text
    assert "broker_away" not in caplog.text
    assert [caplog.text.count(f"broker_fallback{told}") for told in (": ", " is over: ")] == [1, 1]


def test_an_outage_in_mid_stream_loses_nothing(tmp_path: Path, station: Start) -> None:
    lines = ["max_queued_messages 0"]
    first, second = (Mosquitto(tmp_path / name, lines=lines) for name in ("first", "second"))
    with first, second, Listener(second.port, f"{TOPIC}/result") as at_second:
        one = station(None, brokers=brokers(first.port, second.port))
        heard: list[int] = []
        for round_ in range(3):
            with Listener(first.port, f"{TOPIC}/result") as at_first:
                one.health.until(lambda problems: "broker_fallback" not in problems)
                one.commit(*range(round_ * 1000, round_ * 1000 + 600))
                at_first.until(lambda heard: len(heard) > 50)
                first.kill()
                assert one.shipper.wait_drained(20), "the second takes over"
                heard += sequences(at_first.json())
            first.start()
        one.health.until(lambda problems: "broker_fallback" not in problems)
    taken = sequences(at_second.json())
    assert set(heard) | set(taken) == set(range(1, 1801))
    assert sorted(set(taken)) == list(dict.fromkeys(taken)), "in order there, too"


def test_one_that_never_answers_and_one_that_hangs_up_are_passed(
    broker: Mosquitto, station: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.delivery.mqtt.connection.CONNECT_TIMEOUT_S", 0.3)
    monkeypatch.setattr("agent.delivery.mqtt.brokers.LOOK_AGAIN_S", 60)
    with silent_listener() as silent, Wire(broker.port, cuts=lambda data: b'"state":"online"' in data) as rude:
        one = station(None, brokers=brokers(silent, rude.port, broker.port))
        one.commit(*range(20))
        assert one.shipper.wait_drained(20)
        used = one.health.until(lambda problems: "broker_fallback" in problems)["broker_fallback"]
        assert used.endswith(f"broker 127.0.0.1:{broker.port} is used meanwhile")
        assert rude.connections <= 2


def test_none_that_answers_is_one_line_with_each_cause(
    station: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("agent.delivery.mqtt.connection.CONNECT_TIMEOUT_S", 0.2)
    with silent_listener() as silent:
        one = station(None, brokers=brokers(free_port(), silent))
        problems = one.health.until(lambda problems: "broker_away" in problems)
        assert "has nothing listening there" in problems["broker_away"]
        assert f"broker 127.0.0.1:{silent} took the connection but did not answer" in problems["broker_away"]
        spent = time.process_time()
        time.sleep(1)  # to see that it costs nothing while nobody answers
        assert time.process_time() - spent < 0.3
    assert len([record for record in caplog.records if "broker_away" in record.getMessage()]) == 1


def test_what_an_earlier_life_left_at_the_second_is_no_twin(tmp_path: Path, station: Start) -> None:
    first, second = Mosquitto(tmp_path / "first"), Mosquitto(tmp_path / "second")
    with second:
        one = station(None, brokers=brokers(first.port, second.port))
        one.health.until(lambda problems: "broker_fallback" in problems)
        one.stop()
        with first:
            two = station(None, brokers=brokers(first.port, second.port))
            two.commit(1)
            assert two.shipper.wait_drained(20)
        two.health.until(lambda problems: "broker_fallback" in problems)
        with Listener(second.port, f"{TOPIC}/status") as status:
            status.until(lambda heard: bool(heard) and heard[-1]["state"] == "online")
        assert "client_id_taken_over" not in two.health.problems()
        two.stop()


def test_each_broker_has_its_own_access_where_it_says_so(tmp_path: Path, station: Start) -> None:
    ours = authority(tmp_path / "ours")
    certificate, key = ours.issue("server")
    key.chmod(0o644)
    ours.folder.chmod(0o755)
    lines = [f"cafile {ours.ca}", f"certfile {certificate}", f"keyfile {key}"]
    lines += passwords(tmp_path / "broker", cam="right")
    (tmp_path / "wrong").write_text("wrong")
    (tmp_path / "right").write_text("right")
    with Mosquitto(tmp_path / "broker", anonymous=False, lines=lines) as broker:
        own = BrokerConfig(
            host="127.0.0.1", port=broker.port, tls=TlsConfig(ca=str(ours.ca)),
            username="cam", password_file=str(tmp_path / "right"),
        )  # fmt: skip
        shared = BrokerConfig(host="127.0.0.1", port=broker.port, tls=TlsConfig(ca=str(ours.ca)))
        config = MqttConfig(brokers=(shared, own), username="cam", password_file=str(tmp_path / "wrong"))
        refused, let_in = (probe(one, TOPIC) for one in config.each())
        assert "refuses user 'cam' or its password" in str(refused) or "does not let user 'cam' in" in str(refused)
        assert let_in is None


@pytest.mark.parametrize(
    ("mqtt", "said"),
    [
        ("{brokers: [{host: a}], host: b}", "mqtt.brokers: found together with host or port; use one or the other"),
        ("{brokers: [{port: 1883}]}", "mqtt.brokers[0].host: missing; this key is required"),
        ("{brokers: [{host: a}, {host: b, tls: {cert: x}}]}", "mqtt.brokers[1].tls: cert and key go together"),
        ("{brokers: []}", "mqtt.host: missing; name the broker"),
        ("{brokers: [{host: a}], embedded: true}", "mqtt.embedded: found together with host, brokers, tls or username"),
        ("{host: a, protocol: 4}", "mqtt.protocol: found 4; allowed: 5, 3.1.1"),
        ("{host: a, commands: [reboot]}", "mqtt.commands[0]: found 'reboot'; allowed: "),
    ],
)
def test_mistakes_are_one_line(mqtt: str, said: str) -> None:
    text = f"""
station: {{name: cam-07}}
state: /var/lib/weldwatch
sources: [{{type: folder, name: captures, path: /captures}}]
results: {{directory: /results}}
mqtt: {mqtt}
"""
    with pytest.raises(ConfigError) as error:
        parse(text, "agent.yaml")
    assert said in str(error.value)


# --- MQTT 3.1.1 ---


def test_mqtt_311_carries_all_but_what_it_has_no_place_for(
    broker: Mosquitto, station: Start, caplog: pytest.LogCaptureFixture
) -> None:
    with Listener(broker.port, f"{TOPIC}/#") as listener:
        one = station(broker.port, protocol="3.1.1", message_expiry_s=60, live=True)
        one.commit(*range(50))
        assert one.shipper.wait_drained(20)
        one.sink.publish_health({"inspected": 50})
        listener.until(lambda heard: heard[-1] == {"inspected": 50})
        one.stop()
        listener.until(lambda heard: heard[-1].get("state") == "stopped")
        results = [one for one in listener.messages if one.topic == f"{TOPIC}/result"]
        assert [json.loads(bytes(one.payload))["sequence"] for one in results] == list(range(1, 51))
        assert not hasattr(results[0].properties, "ContentType")
        assert not hasattr(results[0].properties, "MessageExpiryInterval")
    said = [record.getMessage() for record in caplog.records if "3.1.1" in record.getMessage()]
    assert len(said) == 1
    assert "a broker that refuses a result cannot say so, and it counts as delivered" in said[0]


@pytest.mark.parametrize("limit", ["acl_file {acl}", "message_size_limit 500"])
def test_mqtt_311_says_success_where_it_was_refused(tmp_path: Path, station: Start, ledger: Ledger, limit: str) -> None:
    """The limit that the documentation names, and why 5 is the default."""
    acl = tmp_path / "acl"
    acl.write_text(f"topic read #\ntopic write {TOPIC}/status\n")
    with Mosquitto(tmp_path / "broker", lines=[limit.format(acl=acl)]) as broker:
        one = station(broker.port, protocol="3.1.1")
        one.commit(1)
        assert one.shipper.wait_drained(20)
        assert ledger.cursor("mqtt") == 1
        assert "publish_denied" not in one.health.problems()


def test_mqtt_311_trouble_has_its_names(tmp_path: Path, station: Start) -> None:
    lines = passwords(tmp_path / "broker", cam="right")
    with Mosquitto(tmp_path / "broker", anonymous=False, lines=lines) as broker:
        (tmp_path / "secret").write_text("wrong")
        config: dict[str, Any] = {
            "protocol": "3.1.1", "username": "cam", "password_file": str(tmp_path / "secret"),
        }  # fmt: skip
        one = station(broker.port, **config)
        problems = one.health.until(lambda problems: "broker_away" in problems)
        assert "user 'cam'" in problems["broker_away"]
        (tmp_path / "secret").write_text("right")
        one.commit(1)
        assert one.shipper.wait_drained(20)
