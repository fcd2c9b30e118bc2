"""The Sparkplug sink against a real mosquitto and a host that follows the specification to the letter."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from agent.delivery.sparkplug.memory import FILE
from tests.support.mosquitto import Listener, Mosquitto
from tests.support.network import Wire
from tests.support.sparkplug import Payload
from tests.support.sparkplug_station import DEVICE, GROUP, NODE, StartSparkplug, host_of


def heard(listener: Listener, count: int) -> None:
    """Wait for messages that are no JSON."""
    with listener.changed:
        assert listener.changed.wait_for(lambda: len(listener.messages) >= count, 20)


# --- birth, data, death ---


@pytest.mark.parametrize("protocol", [5, "3.1.1"])
def test_a_host_rebuilds_every_result(broker: Mosquitto, sparkplug: StartSparkplug, protocol: int | str) -> None:
    with host_of(broker.port) as host:
        station = sparkplug(broker.port, protocol=protocol)
        host.until(lambda: host.node.device_online)
        assert set(host.node.values.values()) == {None}, "no result yet: declared, and null"
        assert {"evaluation", "probability/no defect", "image/name", "sequence"} < set(host.node.device_types)
        station.commit(*range(600))
        host.until(lambda: len(host.results) == 600)
        assert station.shipper.wait_drained(10)
        station.stop()
        host.until(lambda: host.verbs()[-1] == "NDEATH")
        assert host.faults == []
        assert host.order == list(range(1, 601))
        assert host.results == station.committed()
        assert host.historical == set(), "made while the host listened"
        verbs = list(dict.fromkeys(host.verbs()))
        assert verbs == ["NBIRTH", "DBIRTH", "DDATA", "DDEATH", "NDEATH"]
        assert not host.node.online
        assert station.health.counters()["sparkplug_births"] == 1


def test_what_was_not_decidable_and_hostile_names_pass(broker: Mosquitto, sparkplug: StartSparkplug) -> None:
    with host_of(broker.port) as host:
        station = sparkplug(broker.port)
        host.until(lambda: host.node.device_online)
        station.commit(1, evaluation="NotDecidable", class_=None, probability=None)
        station.commit(2, name="a\nb\\xff\x1b漢" + "x" * 200, part_id="Ä", frame="0042")
        station.commit(3, probability=[1.0, 0.0])
        host.until(lambda: len(host.results) == 3)
        assert host.results == station.committed()
        assert host.faults == []


def test_what_describes_the_station_goes_once_and_what_was_measured_always(
    broker: Mosquitto, sparkplug: StartSparkplug
) -> None:
    with host_of(broker.port) as host:
        station = sparkplug(broker.port)
        host.until(lambda: host.node.device_online)
        station.commit(1, 2)
        host.until(lambda: len(host.results) == 2)
        first, second = (message for message in host.messages if message.verb == "DDATA")
        assert {"station/name", "model/name", "evaluation", "sequence"} < set(first.metrics)
        assert {"station/name", "model/name", "labels"} & set(second.metrics) == set()
        assert {"evaluation", "class", "probability/defect", "reasons", "sequence"} < set(second.metrics)


def test_births_are_numbered_across_sessions_and_restarts(
    broker: Mosquitto, sparkplug: StartSparkplug, tmp_path: Path
) -> None:
    def numbers(verb: str) -> list[int]:
        return [message.metrics["bdSeq"].long_value for message in host.messages if message.verb == verb]

    (tmp_path / "state" / FILE).write_text("253\n")
    with host_of(broker.port) as host, Wire(broker.port) as wire:
        for count in range(1, 4):
            station = sparkplug(wire.port)
            host.until(lambda least=count: len(numbers("NBIRTH")) == least)  # type: ignore[misc]
            station.stop()
        host.until(lambda: len(set(numbers("NDEATH"))) == 3)
        assert numbers("NBIRTH") == [254, 255, 0]
        assert list(dict.fromkeys(numbers("NDEATH"))) == [254, 255, 0]
        assert host.faults == []


def test_a_station_that_vanishes_dies_by_its_will(broker: Mosquitto, sparkplug: StartSparkplug) -> None:
    with host_of(broker.port) as host, Wire(broker.port) as wire:
        sparkplug(wire.port)
        host.until(lambda: host.node.device_online)
        wire.break_off()
        host.until(lambda: host.verbs().count("NBIRTH") == 2 and host.node.device_online)
        first, second = (m.metrics["bdSeq"].long_value for m in host.messages if m.verb == "NBIRTH")
        deaths = [m.metrics["bdSeq"].long_value for m in host.messages if m.verb == "NDEATH"]
        assert (deaths, second) == ([first], first + 1)
        assert host.faults == []


# --- history ---


def test_what_waited_is_historical_and_the_birth_shows_the_newest(broker: Mosquitto, sparkplug: StartSparkplug) -> None:
    with host_of(broker.port) as host:
        station = sparkplug(broker.port)
        host.until(lambda: host.node.device_online)
        station.commit(1)
        host.until(lambda: len(host.results) == 1)
        station.stop()
        station.commit(2, 3, 4)
        again = sparkplug(broker.port)
        assert again.shipper.wait_drained(20)
        again.commit(5)
        host.until(lambda: len(host.results) == 5)
        assert host.results == again.committed()
        by_sequence = {result["sequence"]: key for key, result in host.results.items()}
        assert host.historical == {by_sequence[n] for n in (1, 2, 3, 4)}, "1 once more: see the next test"
        assert host.live == {by_sequence[n] for n in (1, 5)}
        births = [message for message in host.messages if message.verb == "DBIRTH"]
        assert births[1].metrics["sequence"].long_value == 4, "the present is the newest, though not delivered yet"
        assert host.node.values["sequence"] == 5
        assert host.faults == []


def test_a_host_that_died_together_with_the_agent_gets_what_it_had_not_stored(
    broker: Mosquitto, sparkplug: StartSparkplug
) -> None:
    """The broker had handed it back, so its cursor had moved; only the host, which is gone, had not written it down."""
    with host_of(broker.port, host_id="scada") as forgetful:
        station = sparkplug(broker.port, primary_host="scada")
        forgetful.until(lambda: forgetful.node.device_online)
        station.commit(*range(120))
        assert station.shipper.wait_drained(20)
        forgetful.kill()
    station.stop()
    with host_of(broker.port, host_id="scada") as host:
        again = sparkplug(broker.port, primary_host="scada")
        host.until(lambda: len(host.historical) == 120)
        assert host.results == again.committed()
        assert host.order == list(range(1, 121)), "once"
        again.commit(120)
        host.until(lambda: len(host.results) == 121)
        assert host.faults == []


def test_a_host_that_joins_late_asks_and_gets_what_it_missed(broker: Mosquitto, sparkplug: StartSparkplug) -> None:
    station = sparkplug(broker.port)
    station.health.until(lambda _: bool(station.health.counters().get("sparkplug_births")))
    station.commit(*range(20))
    assert station.shipper.wait_drained(20)
    with host_of(broker.port) as host:
        station.allow_births()
        station.commit(20)
        host.until(lambda: len(host.results) == 21)
        assert host.rebirths_asked == 1
        assert host.results == station.committed()
        births = [message.metrics for message in host.messages if message.verb == "NBIRTH"]
        assert len(births) == 1
        assert host.faults == []


def test_without_overlap_only_the_newest_is_told_again(broker: Mosquitto, sparkplug: StartSparkplug) -> None:
    station = sparkplug(broker.port, overlap_s=0)
    station.commit(*range(20))
    assert station.shipper.wait_drained(20)
    with host_of(broker.port) as host:
        station.allow_births()
        station.commit(20)
        host.until(lambda: host.node.device_online)
        station.commit(21)
        host.until(lambda: host.node.values.get("sequence") == 22)
        assert host.historical == set()


def test_a_replay_is_history_and_changes_nothing_that_is_shown(broker: Mosquitto, sparkplug: StartSparkplug) -> None:
    with host_of(broker.port) as host:
        station = sparkplug(broker.port)
        host.until(lambda: host.node.device_online)
        station.commit(1, 2, 3)
        host.until(lambda: len(host.results) == 3)
        assert station.shipper.wait_drained(10)
        first = station.ledger.after(0, 2)
        assert station.sink.deliver_again(first) == 2
        host.until(lambda: len(host.historical) == 2)
        assert host.node.values["sequence"] == 3
        assert host.faults == []


# --- commands ---


def test_only_a_rebirth_is_obeyed_and_not_by_the_second(broker: Mosquitto, sparkplug: StartSparkplug) -> None:
    with host_of(broker.port) as host:
        station = sparkplug(broker.port)
        host.until(lambda: host.node.device_online)
        host.raw_command(b"\xff" * 50)
        host.raw_command(b"\x0a" * (1 << 17))
        host.raw_command(b"")
        host.command("Node Control/Rebirth", value=False)
        host.command("Node Control/Reboot", "evaluation")
        station.commit(1)
        host.until(lambda: len(host.results) == 1)
        assert host.verbs().count("NBIRTH") == 1
        station.allow_births()
        host.command("Node Control/Rebirth")
        host.until(lambda: host.verbs().count("NBIRTH") == 2 and host.node.device_online)
        for _ in range(50):
            host.command("Node Control/Rebirth")
        station.commit(2)
        host.until(lambda: len(host.results) == 2)
        assert host.verbs().count("NBIRTH") == 2, "asked fifty times within five seconds: data go on"
        station.allow_births()
        host.until(lambda: host.verbs().count("NBIRTH") == 3)
        births = {m.metrics["bdSeq"].long_value for m in host.messages if m.verb == "NBIRTH"}
        assert len(births) == 1, "a rebirth is no new session"
        assert host.results == station.committed()
        assert host.faults == []


def test_a_retained_command_is_never_obeyed(broker: Mosquitto, sparkplug: StartSparkplug) -> None:
    with host_of(broker.port) as host:
        host.command("Node Control/Rebirth", retain=True)
        station = sparkplug(broker.port)
        host.until(lambda: host.node.device_online)
        station.allow_births()
        station.commit(1, 2, 3)
        host.until(lambda: len(host.results) == 3)
        assert host.verbs().count("NBIRTH") == 1
        assert host.faults == []


def test_another_bundle_brings_its_own_metrics(broker: Mosquitto, sparkplug: StartSparkplug) -> None:
    with host_of(broker.port) as host:
        station = sparkplug(broker.port)
        host.until(lambda: host.node.device_online)
        station.commit(1)
        station.commit(2, labels=["good", "pore", "crack"], probability=[0.1, 0.2, 0.7], class_="crack")
        station.commit(3)
        host.until(lambda: len(host.results) == 3)
        assert host.results == station.committed()
        assert host.verbs().count("NBIRTH") == 2
        assert host.faults == []


# --- the primary host ---


def test_nothing_is_published_before_the_primary_host_is_there(
    broker: Mosquitto, sparkplug: StartSparkplug, caplog: pytest.LogCaptureFixture
) -> None:
    with Listener(broker.port, f"spBv1.0/{GROUP}/#") as everything:
        station = sparkplug(broker.port, primary_host="scada")
        station.commit(1, 2, 3)
        problems = station.health.until(lambda problems: "sparkplug_host_offline" in problems)
        assert "primary host scada is not online" in problems["sparkplug_host_offline"]
        assert everything.messages == []
        assert station.ledger.depth("sparkplug") == 3
        with host_of(broker.port, host_id="scada") as host:
            host.until(lambda: len(host.results) == 3)
            assert station.shipper.wait_drained(10)
            assert station.health.problems() == {}
            station.commit(4)
            host.until(lambda: len(host.results) == 4)
            assert host.results == station.committed()
            assert len(host.historical) == 3
            assert host.faults == []
    warnings = [record for record in caplog.records if "sparkplug_host_offline" in record.getMessage()]
    assert [record.levelno for record in warnings if record.levelno >= logging.WARNING] == [logging.WARNING]


def test_when_the_primary_host_goes_the_station_leaves_and_keeps(broker: Mosquitto, sparkplug: StartSparkplug) -> None:
    with host_of(broker.port) as watcher, host_of(broker.port, host_id="scada") as host:
        station = sparkplug(broker.port, primary_host="scada")
        for round_ in range(3):
            host.until(lambda: host.node.device_online)
            station.commit(*range(round_ * 100, round_ * 100 + 10))
            host.until(lambda least=station.ledger.last_sequence: len(host.results) == least)  # type: ignore[misc]
            (host.kill if round_ == 1 else host.stop)()
            watcher.until(lambda: not watcher.node.online)
            station.commit(*range(round_ * 100 + 50, round_ * 100 + 60))
            station.health.until(lambda problems: "sparkplug_host_offline" in problems)
            assert station.ledger.depth("sparkplug") == 10
            host.start()
        host.until(lambda: len(host.results) == 60)
        assert host.results == station.committed()
        assert host.faults == watcher.faults == []


def test_a_late_will_of_the_host_does_not_count(broker: Mosquitto, sparkplug: StartSparkplug) -> None:
    with host_of(broker.port, host_id="scada") as host, Listener(broker.port, "spBv1.0/STATE/scada") as states:
        station = sparkplug(broker.port, primary_host="scada")
        host.until(lambda: host.node.device_online)
        for told in ({"online": False, "timestamp": 5}, {"online": False}, [], {"online": "no", "timestamp": 1 << 70}):
            states._client.publish("spBv1.0/STATE/scada", json.dumps(told), 1)
        states._client.publish("spBv1.0/STATE/scada", b"OFFLINE", 1)
        states._client.publish("spBv1.0/STATE/other", json.dumps({"online": False, "timestamp": 1 << 50}), 1)
        heard(states, 5)
        station.commit(1)
        host.until(lambda: len(host.results) == 1)
        assert host.verbs().count("NBIRTH") == 1
        assert host.faults == []


def test_a_host_that_was_away_unnoticed_gets_births_and_its_gap_filled(
    broker: Mosquitto, sparkplug: StartSparkplug
) -> None:
    """The broker still says online, by the retained message of the host's last life."""
    with Listener(broker.port, "spBv1.0/STATE/scada") as states:
        states._client.publish("spBv1.0/STATE/scada", json.dumps({"online": True, "timestamp": 5}), 1, True)
        states.until(lambda heard: len(heard) == 1)
        station = sparkplug(broker.port, primary_host="scada")
        station.commit(1, 2, 3)
        assert station.shipper.wait_drained(20), "nobody hears it"
        station.allow_births()
        with host_of(broker.port, host_id="scada") as host:
            host.until(lambda: len(host.results) == 3)
            assert host.results == station.committed()
            assert host.faults == []


# --- the broker of mqtt ---


def test_without_a_broker_of_its_own_it_takes_those_of_mqtt_in_turn(
    broker: Mosquitto, sparkplug: StartSparkplug, tmp_path: Path
) -> None:
    with Mosquitto(tmp_path / "second") as second, host_of(second.port, host_id="scada") as host:
        mqtt = {"brokers": [{"host": "127.0.0.1", "port": one.port} for one in (broker, second)]}
        station = sparkplug(0, mqtt=mqtt, broker=None, primary_host="scada")
        station.commit(1)
        broker.stop()
        host.until(lambda: len(host.results) == 1)
        assert host.faults == []


def test_topics_and_death_certificate_are_as_the_specification_says(
    broker: Mosquitto, sparkplug: StartSparkplug
) -> None:
    with Listener(broker.port, "spBv1.0/#") as everything:
        station = sparkplug(broker.port)
        station.commit(1)
        assert station.shipper.wait_drained(20)
        station.stop()
        heard(everything, 5)
        first = {message.topic: message for message in reversed(everything.messages)}
    assert list(first)[::-1] == [
        f"spBv1.0/{GROUP}/NBIRTH/{NODE}",
        f"spBv1.0/{GROUP}/DBIRTH/{NODE}/{DEVICE}",
        f"spBv1.0/{GROUP}/DDATA/{NODE}/{DEVICE}",
        f"spBv1.0/{GROUP}/DDEATH/{NODE}/{DEVICE}",
        f"spBv1.0/{GROUP}/NDEATH/{NODE}",
    ]
    death = first[f"spBv1.0/{GROUP}/NDEATH/{NODE}"]
    assert (death.qos, death.retain) == (1, False)
    assert [metric.name for metric in Payload.FromString(death.payload).metrics] == ["bdSeq"]
