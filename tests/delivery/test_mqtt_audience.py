"""A PUBACK is the broker's word, not the subscriber's: what a broker that comes back empty would lose is not lost."""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from agent.delivery.mqtt.tools import Subscriber
from agent.ledger import Ledger
from agent.ledger.database import FILE
from tests.support.mosquitto import Listener, Mosquitto
from tests.support.mqtt_station import TOPIC, Start, in_order, sequences
from tests.support.station import until

RESULTS = f"{TOPIC}/result"


def test_after_a_restart_without_sessions_results_wait_for_the_subscriber(broker: Mosquitto, station: Start) -> None:
    one = station(broker.port)
    with Listener(broker.port, RESULTS) as listener:
        one.commit(1)
        listener.until(lambda heard: sequences(heard) == [1])
    broker.kill()
    one.commit(2, 3)
    broker.start()
    one.health.until(lambda problems: "broker_was_away" in problems)  # the station is back first
    with Listener(broker.port, RESULTS) as late:
        heard = late.until(lambda heard: {2, 3} <= set(sequences(heard)))
    assert in_order(heard, 3)


def test_what_the_broker_took_at_its_end_comes_once_more_and_first(broker: Mosquitto, station: Start) -> None:
    with Listener(broker.port, RESULTS) as listener:
        one = station(broker.port)
        one.commit(*range(1, 6))
        listener.until(lambda heard: len(heard) == 5)
        assert one.shipper.wait_drained(10)
        broker.kill()
        one.commit(6)
        broker.start()
        heard = listener.until(lambda heard: 6 in sequences(heard))
        assert Counter(sequences(heard)) == {**dict.fromkeys(range(1, 6), 2), 6: 1}
        assert in_order(heard, 6)
        broker.kill()
        one.commit(7)
        broker.start()
        heard = listener.until(lambda heard: 7 in sequences(heard))
        assert Counter(sequences(heard))[1] == 2, "once more is enough"
        assert in_order(heard, 7)


def test_what_the_broker_took_at_its_end_comes_once_more_without_a_new_result(
    broker: Mosquitto, station: Start
) -> None:
    with Listener(broker.port, RESULTS) as listener:
        one = station(broker.port)
        one.commit(*range(1, 6))
        assert one.shipper.wait_drained(10)
        listener.until(lambda heard: len(heard) == 5)
        broker.kill()
        one.health.until(lambda problems: "broker_away" in problems)
        broker.start()
        heard = listener.until(lambda heard: len(heard) == 10)
        assert sequences(heard) == [*range(1, 6)] * 2
        assert one.shipper.wait_drained(10)
        assert one.health.counters()["mqtt_delivered"] == 5
        broker.kill()
        broker.start()
        one.commit(6)
        heard = listener.until(lambda heard: 6 in sequences(heard))
        assert Counter(sequences(heard)) == {**dict.fromkeys(range(1, 6), 2), 6: 1}, "once more is enough"


def test_a_doubt_outlives_an_agent_that_is_killed_while_the_broker_is_away(
    broker: Mosquitto, station: Start, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.delivery.mqtt.audience._WAIT_AT_FIRST_S", 30.0)
    with Listener(broker.port, RESULTS) as listener:
        one = station(broker.port)
        one.commit(*range(1, 6))
        assert one.shipper.wait_drained(10)
        listener.until(lambda heard: len(heard) == 5)
        broker.kill()
        one.health.until(lambda problems: "broker_away" in problems)
        until(lambda: ledger.cursor("mqtt") == 0, "the doubt")
        with closing(sqlite3.connect(tmp_path / "state" / FILE)) as connection:  # what a kill would leave
            assert connection.execute("SELECT cursor FROM sinks WHERE name = 'mqtt'").fetchall() == [(0,)]
        one.stop()
        broker.start()
        station(broker.port)
        heard = listener.until(lambda heard: len(heard) == 10)
        assert sequences(heard) == [*range(1, 6)] * 2


def test_with_nobody_there_results_go_on_after_a_while_and_wait_no_more(
    broker: Mosquitto, station: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.delivery.mqtt.audience._WAIT_AT_FIRST_S", 1.0)
    one = station(broker.port)
    one.commit(1)
    assert not one.shipper.wait_drained(0.9)
    assert one.shipper.wait_drained(10)
    broker.kill()
    one.commit(2)
    broker.start()
    one.health.until(lambda problems: "broker_was_away" in problems)
    assert one.shipper.wait_drained(0.9)


def test_a_stop_does_not_wait_for_a_subscriber(
    broker: Mosquitto, station: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.delivery.mqtt.audience._WAIT_AT_FIRST_S", 60.0)
    one = station(broker.port)
    one.commit(1)
    one.health.until(lambda problems: not problems)
    assert not one.shipper.stop(0.5)
    assert one.ledger.depth("mqtt") == 1, "the next start delivers it"


def test_once_somebody_has_heard_results_go_on_when_he_leaves(
    broker: Mosquitto, station: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.delivery.mqtt.audience._WAIT_AT_FIRST_S", 60.0)
    one = station(broker.port)
    heard = threading.Event()
    passing = Subscriber("127.0.0.1", broker.port, RESULTS, lambda _: heard.set())
    passing.start()
    one.commit(1)
    assert heard.wait(10)
    passing.stop()
    one.commit(2)
    assert one.shipper.wait_drained(2), "nothing waits for who went of his own will"
