"""Each kind of trouble with a broker has its name, its line, and keeps what it can keep."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from agent.clock import SystemClock
from agent.config import MqttConfig, TlsConfig
from agent.delivery.mqtt import MqttSink, probe
from agent.delivery.mqtt.settings import client_id_for
from agent.errors import UsageError
from agent.health import Health
from tests.support.certificates import Authority, authority
from tests.support.mosquitto import Listener, Mosquitto, passwords
from tests.support.mqtt_station import TOPIC, Start, sequences
from tests.support.network import Wire, silent_listener
from tests.support.ports import free_port

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


def test_a_denied_status_is_said_and_results_go_on(
    tmp_path: Path, station: Start, caplog: pytest.LogCaptureFixture
) -> None:
    acl = tmp_path / "acl"
    acl.write_text(f"topic read #\ntopic write {TOPIC}/result\n")
    with Mosquitto(tmp_path / "broker", lines=[f"acl_file {acl}"]) as broker:
        one = station(broker.port)
        one.commit(1)
        problems = one.health.until(lambda problems: "status_denied" in problems)
        assert f"publish to {TOPIC}/status (PUBACK 135)" in problems["status_denied"]
        assert one.shipper.wait_drained(10)
        broker.stop()
        acl.write_text("topic readwrite #\n")
        broker.start()
        one.health.until(lambda problems: "status_denied" not in problems)
    assert [r.levelname for r in caplog.records if "status_denied" in r.getMessage()] == ["ERROR"]


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
        assert one.health.counters()["mqtt_dead_letters"] == 1


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


def test_a_result_that_breaks_each_connection_at_once_is_found_out(broker: Mosquitto, station: Start) -> None:
    """So soon that not even the status is acknowledged before."""
    with (
        Wire(broker.port, cuts=lambda data: b"poison" in data, lag_s=0.05) as wire,
        Listener(broker.port, f"{TOPIC}/result") as listener,
    ):
        one = station(wire.port)
        one.commit(*range(1, 12))
        assert one.shipper.wait_drained(20)
        one.commit(12, name="poison.png")
        one.commit(*range(13, 16))
        assert one.shipper.wait_drained(60)
        assert wire.connections <= 2 + 5 + 1, "two until it is suspected, five that it broke, and one without it"
        assert [letter.sequence for letter in one.ledger.dead("mqtt")] == [12]
        others = [*range(1, 12), 13, 14, 15]
        heard = listener.until(lambda heard: set(others) == set(sequences(heard)))
        assert list(dict.fromkeys(sequences(heard))) == others


def test_the_first_result_of_all_may_be_the_culprit(broker: Mosquitto, station: Start) -> None:
    with Wire(broker.port, cuts=lambda data: b"poison" in data, lag_s=0.02) as wire:
        one = station(wire.port)
        one.commit(1, name="poison.png")
        one.commit(2, 3)
        assert one.shipper.wait_drained(60)
        assert [letter.sequence for letter in one.ledger.dead("mqtt")] == [1]


@pytest.mark.parametrize("worked_before", [True, False])
def test_a_broker_that_refuses_results_by_hanging_up_buries_none_that_others_would_not_follow(
    broker: Mosquitto, station: Start, worked_before: bool
) -> None:
    """EMQX (``deny_action = disconnect``) and AWS do: they take the status, and hang up at each result."""
    denies = threading.Event()
    with Wire(broker.port, cuts=lambda data: denies.is_set() and b"weldwatch.result/1" in data) as wire:
        one = station(wire.port)
        if worked_before:
            one.commit(1, 2)
            assert one.shipper.wait_drained(20)
        denies.set()
        one.commit(*range(3, 6))
        tries = wire.connections + (12 if worked_before else 16)
        with wire.changed:
            assert wire.changed.wait_for(lambda: wire.connections >= tries, 60)
        assert one.health.until(lambda problems: "connection_unstable" in problems)
        denies.clear()
        assert one.shipper.wait_drained(20)
        assert len(one.ledger.dead("mqtt")) == (0 if worked_before else 1), "without a proof one is, and no more"


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


def test_renewed_certificates_are_taken_up_and_half_a_pair_is_not(
    tmp_path: Path, station: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """The plant changes its authority: the broker first, then the station's three files, one after the other."""
    old, new = authority(tmp_path / "old"), authority(tmp_path / "new")
    files = {name: tmp_path / f"station.{name}" for name in ("ca", "cert", "key")}

    def lines(of: Authority) -> list[str]:
        certificate, key = of.issue("broker")
        return [f"cafile {of.ca}", f"certfile {certificate}", f"keyfile {key}", "require_certificate true"]

    def renew(name: str, made: Path) -> None:
        made.replace(files[name])

    for name, made in zip(("cert", "key"), old.issue("cam-07"), strict=True):
        renew(name, made)
    files["ca"].write_bytes(old.ca.read_bytes())
    with Mosquitto(tmp_path / "broker", lines=lines(old)) as broker:
        one = station(broker.port, tls=TlsConfig(**{name: str(path) for name, path in files.items()}))
        one.commit(1)
        assert one.shipper.wait_drained(20), one.health.problems()
        certificate, key = new.issue("cam-07")
        renew("cert", certificate)
        broker.stop()
        broker.start()  # still the old one: the pair before serves
        problems = one.health.until(lambda problems: "tls_not_renewed:mqtt" in problems)
        assert problems["tls_not_renewed:mqtt"] == (
            f"mqtt.tls.key: {files['key']}: is not the key of {files['cert']}; give the two together; "
            "the certificates from before the change are still used"
        )
        one.commit(2)
        assert one.shipper.wait_drained(20), one.health.problems()
        broker.stop()
        broker.lines(lines(new))
        broker.start()
        one.commit(3)
        one.health.until(lambda problems: "not trusted" in problems.get("broker_away", ""))
        renew("key", key)
        files["ca"].write_bytes(new.ca.read_bytes())
        assert one.shipper.wait_drained(30), one.health.problems()
        assert "tls_not_renewed:mqtt" not in one.health.problems()
    assert len([line for line in caplog.messages if line.startswith("tls_not_renewed: ")]) == 1


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
