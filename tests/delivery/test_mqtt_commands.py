"""Commands against a real mosquitto: obeyed when they are fresh and allowed, answered where nobody else is meant."""

from __future__ import annotations

import json
import logging
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.app.commands import Order, Outcome, Wishes
from tests.support.caller import Caller
from tests.support.mosquitto import Listener, Mosquitto, passwords
from tests.support.mqtt_station import TOPIC, Start, Station

pytestmark = pytest.mark.quiet

COMMAND = f"{TOPIC}/command"


class Press(Wishes, frozen=True, kw_only=True, forbid_unknown_fields=True):
    bytes: int = 0


class Orders:
    """``trigger`` here presses a button; its answer can be as large as one likes."""

    def __init__(self) -> None:
        self.done = 0
        self.orders: dict[str, Order[Any]] = {"trigger": Order(Press, self._press), "job": Order(Press, self._press)}

    def _press(self, wishes: Press) -> Outcome:
        self.done += 1
        return {"presses": self.done, **({"pad": "x" * wishes.bytes} if wishes.bytes else {})}


@pytest.fixture
def orders() -> Orders:
    return Orders()


@pytest.fixture
def listening(station: Start, orders: Orders, caplog: pytest.LogCaptureFixture) -> Start:
    """Starts a station that obeys ``trigger`` and listens."""
    caplog.set_level(logging.INFO, "weldwatch")

    def start(port: int, **config: Any) -> Station:
        one = station(port, orders=orders.orders, commands=("trigger",), **config)
        with Caller(port, TOPIC) as caller:
            caller.reach()
        return one

    return start


# --- the good days ---


def test_a_command_is_carried_out_and_answered(broker: Mosquitto, listening: Start) -> None:
    listening(broker.port)
    with Caller(broker.port, TOPIC) as caller:
        caller.call("trigger", {"id": "17"}, correlation=b"\x00\xff")
        ((message, answer),) = caller.answers(1)
        again = caller.ask("trigger", {"id": "17"})
    assert message.topic == f"{COMMAND}/trigger/reply"
    assert (message.qos, message.retain) == (1, False)
    assert message.properties is not None
    assert (message.properties.ContentType, message.properties.CorrelationData) == ("application/json", b"\x00\xff")
    assert (answer["command"], answer["id"], answer["ok"], answer["answer"]) == (
        "trigger", "17", True, {"presses": 1},
    )  # fmt: skip
    assert again == answer, "the same id is carried out once"


@pytest.mark.parametrize(
    ("wanted", "used"),
    [
        (f"{COMMAND}/trigger/mes/4711", f"{COMMAND}/trigger/mes/4711"),
        (f"{COMMAND}/trigger", f"{COMMAND}/trigger/reply"),  # would come back as a command
        (f"{COMMAND}/trigger/", f"{COMMAND}/trigger/reply"),
        (f"{COMMAND}/job/x", f"{COMMAND}/trigger/reply"),
        (f"{TOPIC}/result", f"{COMMAND}/trigger/reply"),  # would look like a verdict
        (f"{TOPIC}/command/trigger/../../result", f"{COMMAND}/trigger/../../result"),  # dots mean nothing in a topic
        (f"{COMMAND}/trigger/{'x' * 2000}", f"{COMMAND}/trigger/reply"),
        ("elsewhere", f"{COMMAND}/trigger/reply"),
    ],
)
def test_an_answer_goes_below_its_own_command_only(
    broker: Mosquitto, listening: Start, orders: Orders, wanted: str, used: str
) -> None:
    listening(broker.port)
    with Caller(broker.port, TOPIC) as caller:
        caller.call("trigger", response=wanted)
        ((message, _),) = caller.answers(1)
        assert message.topic == used
        caller.ask("trigger")
    assert orders.done == 2


def test_on_mqtt_311_too(broker: Mosquitto, listening: Start) -> None:
    one = listening(broker.port, protocol="3.1.1")
    one.commit(1)
    with Caller(broker.port, TOPIC) as caller:
        assert caller.ask("trigger")["ok"]
        caller.call("trigger", retain=True)  # comes live as if it were not: 3.1.1 cannot tell
    assert one.shipper.wait_drained(20)
    one.stop()


# --- what is not obeyed ---


def test_what_is_wrong_is_answered_and_in_the_log(
    broker: Mosquitto, listening: Start, orders: Orders, caplog: pytest.LogCaptureFixture
) -> None:
    one = listening(broker.port)
    refused = one.health.counters()["commands_refused"]
    with Caller(broker.port, TOPIC) as caller:
        assert "JSON is malformed" in caller.ask("trigger", b"now!")["error"]
        assert "unknown field `press`" in caller.ask("trigger", {"press": 1})["error"]
        assert "not allowed here; add job to mqtt.commands" in caller.ask("job")["error"]
        assert "no such command; this station knows job, trigger" in caller.ask("reboot")["error"]
        assert "a command has 65536 at most" in caller.ask("trigger", b" " * 100_000)["error"]
        caller.call("x" * 81)
        assert caller.ask("trigger")["ok"], "a name that no command has is not even answered"
    assert orders.done == 1
    for name in ("trigger", "job", "reboot", "x" * 80 + "…"):
        assert f"command_refused: {name}: " in caplog.text
    assert one.health.counters()["commands_refused"] == refused + 6
    assert one.health.problems() == {}


def test_a_retained_command_is_never_obeyed(broker: Mosquitto, listening: Start, orders: Orders) -> None:
    """Neither when it comes, nor at each connection after; whoever sent it is told."""
    one = listening(broker.port)
    with Caller(broker.port, TOPIC) as caller:
        answer = caller.ask("trigger", {"id": "17"}, retain=True)
        assert (answer["ok"], answer["id"]) == (False, "17")
        assert "retained commands are never obeyed" in answer["error"]
        one.stop()
        listening(broker.port)
        assert "retained" in caller.answers(2)[1][1]["error"]
        caller.call("trigger", b"", retain=True)  # clears it, and is no command
        assert caller.ask("trigger", {"id": "17"})["ok"], "the refusal did not use its id up"
    assert orders.done == 1


def test_a_station_that_was_away_gets_no_stale_commands(tmp_path: Path, listening: Start, orders: Orders) -> None:
    """Not even from a broker that would queue them for it."""
    lines = ["queue_qos0_messages true", "max_queued_messages 0"]
    with Mosquitto(tmp_path / "hoarder", lines=lines) as broker, Caller(broker.port, TOPIC) as caller:
        one = listening(broker.port)
        with Listener(broker.port, f"{TOPIC}/status") as status:
            connection = one.sink._keeper.connection(0)
            assert connection is not None
            one.sink._keeper._stopping.set()
            connection.drop("cut")  # no goodbye: the broker may think that the station returns
            status.until(lambda heard: bool(heard) and heard[-1]["state"] == "offline")
        for number in range(50):
            caller.call("trigger", {"id": f"stale {number}"})
        listening(broker.port)
        assert caller.ask("trigger", {"id": "fresh"})["ok"]
        assert [answer["id"] for _, answer in caller.answers(1)] == ["fresh"]
    assert orders.done == 1


def test_without_commands_nothing_is_subscribed(broker: Mosquitto, station: Start) -> None:
    one = station(broker.port)
    one.commit(1)
    assert one.shipper.wait_drained(20)
    assert "command/+" not in broker.log()


# --- brokers and callers that make trouble ---


def test_a_flood_costs_nothing_and_is_said(
    broker: Mosquitto,
    listening: Start,
    orders: Orders,
    monkeypatch: pytest.MonkeyPatch,
    figure: Callable[[str], None],
) -> None:
    monkeypatch.setattr("agent.delivery.mqtt.inbox._DEAF_S", 2.0)
    one = listening(broker.port)
    flood = subprocess.Popen(
        ["mosquitto_pub", "-p", str(broker.port), "-t", f"{COMMAND}/trigger", "-m", "{}", "--repeat", "10000000"]
    )
    try:
        problems = one.health.until(lambda problems: "commands_flooded" in problems)
        assert f"more than 50 a second on {COMMAND}/+" in problems["commands_flooded"]
        begin, spent = time.monotonic(), time.process_time()
        one.commit(*range(100))
        assert one.shipper.wait_drained(20), "results go on meanwhile"
        with pytest.raises(subprocess.TimeoutExpired):
            flood.wait(4)
        share = (time.process_time() - spent) / (time.monotonic() - begin)
        figure(f"{share:.0%} of a core, {orders.done} commands obeyed")
        assert share < 0.25
        assert orders.done < 500
    finally:
        flood.kill()
        flood.wait()
    one.health.until(lambda problems: "commands_flooded" not in problems)
    with Caller(broker.port, TOPIC) as caller:
        assert caller.ask("trigger")["ok"], "it listens again"


@pytest.mark.parametrize("limit", ["max_packet_size 8000", "message_size_limit 8000"])
def test_an_answer_that_is_too_large_is_dropped_and_the_next_one_comes(
    tmp_path: Path, listening: Start, limit: str
) -> None:
    with Mosquitto(tmp_path / "narrow", lines=[limit]) as broker, Caller(broker.port, TOPIC) as caller:
        one = listening(broker.port)
        caller.call("trigger", {"bytes": 9000, "id": "large"})
        one.health.until_counted("answers_dropped")
        caller.reach()  # mosquitto says the one limit when it is connected to; at the other it hangs up
        assert caller.ask("trigger", {"id": "small"})["ok"]
        assert [answer["id"] for _, answer in caller.answers(1)] == ["small"]


def test_an_answer_that_the_broker_denies_is_said_and_results_go_on(
    tmp_path: Path, station: Start, orders: Orders, caplog: pytest.LogCaptureFixture
) -> None:
    acl = tmp_path / "acl"
    rights = f"topic read {COMMAND}/+\ntopic readwrite {TOPIC}/status\ntopic write {TOPIC}/result\n"
    acl.write_text(f"user cam\n{rights}user mes\ntopic readwrite #\n")
    lines = [*passwords(tmp_path / "broker", cam="right", mes="right"), f"acl_file {acl}"]
    (tmp_path / "secret").write_text("right")
    with Mosquitto(tmp_path / "broker", anonymous=False, lines=lines) as broker:
        login = {"username": "cam", "password_file": str(tmp_path / "secret")}
        one = station(broker.port, orders=orders.orders, commands=("trigger",), **login)
        with Caller(broker.port, TOPIC, username="mes", password="right") as caller:
            while "commands_refused" not in one.health.counters():  # an answer would tell, but none comes
                caller.call("hello")
                with one.health.changed:
                    one.health.changed.wait(0.1)
            problems = one.health.until(lambda problems: "answers_denied" in problems)
            assert f"does not let user cam publish to {COMMAND}/hello/reply" in problems["answers_denied"]
            assert caller._answers() == []
        one.commit(*range(20))
        assert one.shipper.wait_drained(20)
    assert [r.levelname for r in caplog.records if "answers_denied" in r.getMessage()] == ["ERROR"]


def test_a_denied_subscription_is_said(tmp_path: Path, station: Start, caplog: pytest.LogCaptureFixture) -> None:
    """mosquitto's access list keeps silent about it, its dynamic security does not."""
    (plugin,) = Path("/usr/lib").glob("*/mosquitto_dynamic_security.so")
    everything = [
        {"acltype": kind, "topic": "#", "priority": 0, "allow": True}
        for kind in ("publishClientSend", "publishClientReceive", "subscribePattern")
    ]
    denied = {"acltype": "subscribePattern", "topic": f"{COMMAND}/#", "priority": 9, "allow": False}
    rights = {
        "roles": [{"rolename": "all", "acls": [*everything, denied]}],
        "groups": [{"groupname": "anyone", "roles": [{"rolename": "all"}], "clients": []}],
        "anonymousGroup": "anyone",
        "clients": [],
    }
    (tmp_path / "rights.json").write_text(json.dumps(rights))
    lines = [f"plugin {plugin}", f"plugin_opt_config_file {tmp_path / 'rights.json'}"]
    with Mosquitto(tmp_path / "broker", lines=lines) as broker:
        one = station(broker.port, commands=("trigger",))
        problems = one.health.until(lambda problems: "commands_denied" in problems)
        assert f"does not let user (none) subscribe to {COMMAND}/+ (SUBACK 135)" in problems["commands_denied"]
        one.commit(1)
        assert one.shipper.wait_drained(20)
    assert [r.levelname for r in caplog.records if "commands_denied" in r.getMessage()] == ["ERROR"]
