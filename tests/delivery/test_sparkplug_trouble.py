"""Sparkplug where something is in the way: an access list, a message too large, a broker that is none."""

from __future__ import annotations

import logging
import socket
import threading
from datetime import datetime, timezone
from pathlib import Path

import pytest

from agent import config
from agent.clock import ManualClock
from agent.delivery.sparkplug import SparkplugSink, probe
from agent.delivery.sparkplug.memory import FILE, OVERLAP_FILE, BirthCount, Overlap
from agent.errors import ConfigError, UsageError
from tests.support.mosquitto import Mosquitto, passwords
from tests.support.network import Wire, silent_listener
from tests.support.results import an_entry, stored
from tests.support.sparkplug_station import DEVICE, GROUP, NODE, StartSparkplug, host_of, settings
from tests.support.station import until

ALLOWED = [
    f"topic write spBv1.0/{GROUP}/NDEATH/{NODE}",
    f"topic readwrite spBv1.0/{GROUP}/NBIRTH/{NODE}",
    f"topic readwrite spBv1.0/{GROUP}/DBIRTH/{NODE}/{DEVICE}",
    f"topic readwrite spBv1.0/{GROUP}/DDATA/{NODE}/{DEVICE}",
    f"topic write spBv1.0/{GROUP}/DDEATH/{NODE}/{DEVICE}",
    f"topic read spBv1.0/{GROUP}/NCMD/{NODE}",
    "topic read spBv1.0/STATE/scada",
]


@pytest.mark.parametrize("forbidden", ["DBIRTH", "DDATA"])
def test_a_denied_topic_is_an_alarm_and_loses_nothing(
    tmp_path: Path, sparkplug: StartSparkplug, monkeypatch: pytest.MonkeyPatch, forbidden: str
) -> None:
    """The broker says nothing at QoS 0; it shows in what does not come back."""
    monkeypatch.setattr("agent.delivery.sparkplug.session._ECHO_S", 0.3)
    monkeypatch.setattr("agent.delivery.sparkplug.session._SOON_S", 0.1)
    acl, folder = tmp_path / "acl", tmp_path / "broker"
    own = ["user cam-07", *(line for line in ALLOWED if forbidden not in line)]
    acl.write_text("\n".join([*own, "user scada", "topic readwrite spBv1.0/#"]) + "\n")
    lines = [f"acl_file {acl}", *passwords(folder, **{"cam-07": "secret", "scada": "secret"})]
    password = tmp_path / "password"
    password.write_text("secret\n")
    with Mosquitto(folder, anonymous=False, lines=lines) as broker:
        login = {"username": "cam-07", "password_file": str(password)}
        station = sparkplug(0, broker={"host": "127.0.0.1", "port": broker.port, **login})
        station.commit(1, 2, 3)
        problems = station.health.until(lambda problems: "sparkplug_denied" in problems)
        assert "allow user cam-07 to write and to read" in problems["sparkplug_denied"]
        assert station.ledger.depth("sparkplug") == 3
        assert station.ledger.dead() == []
        with host_of(broker.port, login=("scada", "secret"), lenient_gaps=True) as host:
            acl.write_text("\n".join(["user cam-07", *ALLOWED, "user scada", "topic readwrite spBv1.0/#"]) + "\n")
            broker.reload()
            assert station.shipper.wait_drained(20)
            host.until(lambda: len(host.results) == 3)
            assert host.results == station.committed()
        station.health.until(lambda problems: not problems)


def test_the_access_list_of_the_documentation_is_enough(tmp_path: Path, sparkplug: StartSparkplug) -> None:
    page = (Path(__file__).parents[2] / "docs" / "sparkplug.md").read_text(encoding="utf-8")
    told = page[page.index("user cam-07") :].partition("```")[0]
    assert told.split("\n")[1:-1] == sorted(ALLOWED, key=told.index)
    folder = tmp_path / "broker"
    (tmp_path / "acl").write_text(f"{told}\nuser scada\ntopic readwrite spBv1.0/#\n")
    lines = [f"acl_file {tmp_path / 'acl'}", *passwords(folder, **{"cam-07": "secret", "scada": "secret"})]
    password = tmp_path / "password"
    password.write_text("secret\n")
    with (
        Mosquitto(folder, anonymous=False, lines=lines) as broker,
        host_of(broker.port, host_id="scada", login=("scada", "secret")) as host,
    ):
        login = {"username": "cam-07", "password_file": str(password)}
        station = sparkplug(0, broker={"host": "127.0.0.1", "port": broker.port, **login}, primary_host="scada")
        host.until(lambda: host.node.device_online)
        station.commit(1, 2)
        host.until(lambda: len(host.results) == 2)
        station.stop()
        host.until(lambda: host.verbs()[-1] == "NDEATH" and "DDEATH" in host.verbs())
        assert host.faults == []


def test_what_the_broker_swallows_becomes_a_dead_letter_and_the_rest_goes_on(
    tmp_path: Path, sparkplug: StartSparkplug, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        Mosquitto(tmp_path / "small", lines=["message_size_limit 8000"]) as broker,
        host_of(broker.port, lenient_gaps=True) as host,
    ):
        station = sparkplug(broker.port)
        host.until(lambda: host.node.device_online)
        station.commit(1, 2)
        station.commit(3, name="x" * 9000)
        station.commit(4, 5)
        host.until(lambda: len(host.results) == 4)
        assert station.shipper.wait_drained(20)
        (letter,) = station.ledger.dead("sparkplug")
        assert letter.sequence == 3
        assert letter.reason == "the broker swallowed it 3 times, and handed on what came behind it"
        assert {result["sequence"] for result in host.results.values()} == {1, 2, 4, 5}
        assert host.faults == []
        assert host.node.device_online, "the gap in seq was mended by births"
    (line,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "swallowed it 3 times" in line.getMessage()


def test_a_result_that_breaks_every_session_is_given_up_and_no_other(
    tmp_path: Path, sparkplug: StartSparkplug, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.delivery.sparkplug.sink._QUIET_S", 0.05)
    with (
        Mosquitto(tmp_path / "broker") as broker,
        Wire(broker.port, cuts=lambda data: b"poison" in data) as wire,
        host_of(broker.port, lenient_gaps=True) as host,
    ):
        station = sparkplug(wire.port)
        host.until(lambda: host.node.device_online)
        station.commit(1, 2)
        assert station.shipper.wait_drained(20)
        station.ledger.commit([an_entry(3, name="poison.png"), *(an_entry(n) for n in range(4, 20))])
        assert station.shipper.wait_drained(60)
        host.until(lambda: len(host.results) == 18)
        (letter,) = station.ledger.dead("sparkplug")
        assert (letter.sequence, letter.reason) == (3, "the broker ended the session 5 times in a row when it was sent")
        assert wire.connections <= 8
        assert host.faults == []


def test_a_broker_that_hangs_up_at_all_data_buries_none(
    tmp_path: Path, sparkplug: StartSparkplug, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.delivery.sparkplug.sink._QUIET_S", 0.05)
    denies = threading.Event()
    with (
        Mosquitto(tmp_path / "broker") as broker,
        Wire(broker.port, cuts=lambda data: denies.is_set() and b"/DDATA/" in data and b"result_id" in data) as wire,
        host_of(broker.port, lenient_gaps=True) as host,
    ):
        station = sparkplug(wire.port, overlap_s=0)  # with one, its data are the first to break
        host.until(lambda: host.node.device_online)
        station.commit(1, 2)
        assert station.shipper.wait_drained(20)
        denies.set()
        station.commit(*range(3, 6))
        tries = wire.connections + 12
        with wire.changed:
            assert wire.changed.wait_for(lambda: wire.connections >= tries, 60)
        denies.clear()
        assert station.shipper.wait_drained(20)
        assert station.ledger.dead() == []


def test_what_the_broker_says_it_does_not_take_is_not_sent(tmp_path: Path, sparkplug: StartSparkplug) -> None:
    with Mosquitto(tmp_path / "small", lines=["max_packet_size 8000"]) as broker, host_of(broker.port) as host:
        station = sparkplug(broker.port)
        host.until(lambda: host.node.device_online)
        station.commit(1)
        station.commit(2, name="x" * 9000)
        station.commit(3)
        host.until(lambda: len(host.results) == 2)
        (letter,) = station.ledger.dead("sparkplug")
        assert "and the broker takes packets up to 8000" in letter.reason
        assert host.faults == []


def test_a_broker_that_comes_and_goes_buries_nothing(tmp_path: Path, sparkplug: StartSparkplug) -> None:
    with Mosquitto(tmp_path / "broker") as broker, host_of(broker.port, host_id="scada", lenient_gaps=True) as host:
        station = sparkplug(broker.port, primary_host="scada")
        for round_ in range(4):
            station.commit(*range(round_ * 1000, round_ * 1000 + 200))
            host.until(lambda least=round_ * 200 + 20: len(host.results) > least)  # type: ignore[misc]
            broker.kill()
            broker.start()
        host.until(lambda: len(host.results) == 800)
        assert host.results == station.committed()
        assert station.shipper.wait_drained(20)
        assert station.ledger.dead() == []
        assert host.faults == []


@pytest.mark.parametrize(
    ("listener", "cause"),
    [("none", "has nothing listening there; is the broker running, is sparkplug.broker.port right?"),
     ("silent", "took the connection but did not answer"), ("password", "check sparkplug.broker.username")],
)  # fmt: skip
def test_the_cause_is_one_line(
    tmp_path: Path, sparkplug: StartSparkplug, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, listener: str, cause: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("agent.delivery.mqtt.connection.CONNECT_TIMEOUT_S", 0.3)
    with (
        silent_listener() as silent,
        socket.create_server(("127.0.0.1", 0)) as taken,
        Mosquitto(tmp_path / "b", anonymous=False, lines=passwords(tmp_path / "b", other="x")) as broker,
    ):
        none = int(taken.getsockname()[1])
        taken.close()
        port = {"none": none, "silent": silent, "password": broker.port}[listener]
        login = {"host": "127.0.0.1", "port": port, "username": "cam-07"}
        station = sparkplug(0, broker=login, primary_host="scada")
        station.commit(1)
        problems = station.health.until(lambda problems: "sparkplug_away" in problems)
        assert cause in problems["sparkplug_away"]
        until(lambda: int((tmp_path / "state" / FILE).read_text()) >= 3, "the third try")
        assert cause in (probe(settings(tmp_path / "state", 0, broker=login)) or "")
        station.stop()
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == 1, lines
    assert lines[0].endswith("; results are kept and delivered later")


def test_check_tries_the_broker_and_leaves_no_trace(broker: Mosquitto, tmp_path: Path) -> None:
    with host_of(broker.port) as host:
        assert probe(settings(tmp_path / "state", broker.port)) is None
        assert host.messages == []


# --- what outlives a session ---


def test_births_count_from_nonsense_and_on_a_full_disk(tmp_path: Path) -> None:
    for nonsense, first in (("", 0), ("x", 0), ("300", 0), ("-7", 0), ("41\n", 42), ("255", 0)):
        (tmp_path / FILE).write_text(nonsense)
        count = BirthCount(tmp_path)
        assert (count.next(), BirthCount(tmp_path).next()) == (first, first + 1)
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).mkdir()
    (tmp_path / FILE / "in the way").touch()
    count = BirthCount(tmp_path)
    assert [count.next() for _ in range(258)] == [*range(256), 0, 1], "counting goes on in memory"
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_overlap_is_bounded_in_time_number_and_size() -> None:
    class Hand:
        at = 0.0

        def monotonic(self) -> float:
            return self.at

    hand = Hand()
    overlap = Overlap(60, hand)  # type: ignore[arg-type]
    overlap.add([stored(1), stored(2)])
    hand.at = 30
    overlap.add([stored(3)])
    assert [one.sequence for one in overlap.recent()] == [1, 2, 3]
    hand.at = 61
    assert [one.sequence for one in overlap.recent()] == [3]
    overlap.add([stored(n) for n in range(4, 3000)])
    assert [one.sequence for one in overlap.recent()] == list(range(1000, 3000))
    overlap.add([stored(3000 + n, pad=1 << 20) for n in range(8)])
    assert [one.sequence for one in overlap.recent()] == [3005, 3006, 3007]


def test_the_next_life_knows_where_the_overlap_began_or_takes_more(tmp_path: Path) -> None:
    clock = ManualClock(datetime(2026, 11, 22, tzinfo=timezone.utc))
    file = tmp_path / OVERLAP_FILE

    def before(seconds: float = 60) -> int | None:
        return Overlap(seconds, clock, file).before()

    assert before() == 1, "nobody knows"
    overlap = Overlap(60, clock, file)
    for sequence in range(1, 201):  # one a second
        overlap.add([stored(sequence)])
        clock.advance(1)
        first = before()
        assert first is not None
        assert max(1, sequence - 60 - 15) <= first <= max(1, sequence - 59)
    file.write_text("torn")
    assert before() == 1
    assert before(0) is None
    file.unlink()
    file.mkdir()
    overlap.add([stored(201)])
    assert before() == 1
    assert [path.name for path in tmp_path.iterdir()] == [OVERLAP_FILE]


# --- configuration ---


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"broker": None}, "sparkplug.broker: missing; name the broker, or configure mqtt, whose broker is used"),
        ({"group": "a/b"}, "sparkplug.group: found 'a/b'; one level of a topic: 1 to 200 characters without '/'"),
        ({"node": "{plant}"}, "sparkplug.node: found '{plant}'; allowed in braces: enterprise, site, area, line"),
        ({"device": "+"}, "sparkplug.device: found '+'"),
        ({"device": ""}, "sparkplug.device: found ''"),
        ({"group": "{station"}, "sparkplug.group: found '{station'; allowed in braces"),
        ({"primary_host": "a#"}, "sparkplug.primary_host"),
        ({"broker": {"host": "b", "password_file": "x", "password_env": "Y"}}, "sparkplug.broker.password_env: found"),
        ({"broker": {"host": "b", "tls": {"cert": "x"}}}, "sparkplug.broker.tls: cert and key go together"),
        ({"broker": {"port": 1}}, "sparkplug.broker.host: missing"),
        ({"hots": "b"}, "sparkplug.hots: unknown key"),
    ],
)  # fmt: skip
def test_a_wrong_section_is_one_line(tmp_path: Path, changes: dict[str, object], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path / "state", 1883, **changes)
    assert line in str(caught.value)


def test_names_are_made_from_the_station(tmp_path: Path) -> None:
    read = settings(tmp_path / "state", 1883)
    assert read.sparkplug is not None
    assert [read.named(name) for name in (read.sparkplug.group, read.sparkplug.node, read.sparkplug.device)] == [
        GROUP,
        NODE,
        DEVICE,
    ]


def test_what_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    from agent.clock import SystemClock
    from agent.health import Health

    for changes, wrong in (
        ({"password_file": "none"}, r"sparkplug\.broker\.password_file: none: No such file"),
        ({"tls": {"ca": "none.pem"}}, r"sparkplug\.broker\.tls\.ca: none\.pem: no such file"),
    ):
        read: config.AgentConfig = settings(tmp_path / "state", 1, broker={"host": "b", **changes})
        with pytest.raises(UsageError, match=wrong):
            SparkplugSink(read, lambda: None, (), Health(), SystemClock())
        assert probe(read) is not None
