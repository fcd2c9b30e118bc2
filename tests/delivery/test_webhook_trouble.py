"""A webhook that is slow, dead or hostile: it cannot hang its sink, and delays nobody else."""

from __future__ import annotations

import itertools
import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.clock import SystemClock
from agent.config import MqttConfig, ResultsConfig, WebhookConfig
from agent.delivery.json_files import JsonFiles
from agent.delivery.mqtt import MqttSink
from agent.delivery.shipper import Shipper, stop_all
from agent.delivery.webhook import Webhook
from agent.errors import RetryError
from agent.health import Health
from agent.ledger import Ledger
from tests.support.bundles import flat_png
from tests.support.mosquitto import Listener, Mosquitto
from tests.support.network import silent_listener
from tests.support.results import an_entry, stored
from tests.support.station import Station
from tests.support.web import WebServer, raw_server

TIMEOUT_S = 0.4


def drips(wire: socket.socket, first: bytes, drop: bytes) -> None:
    """For ever, a little at a time: each read comes back in time, the whole never does."""
    wire.recv(1 << 16)
    wire.sendall(first)
    while True:
        wire.sendall(drop)
        time.sleep(0.02)


def floods(wire: socket.socket, first: bytes, wave: bytes) -> None:
    wire.recv(1 << 16)
    wire.sendall(first)
    while True:
        wire.sendall(wave)


def says(wire: socket.socket, text: bytes) -> None:
    wire.recv(1 << 16)
    wire.sendall(text)
    wire.shutdown(socket.SHUT_WR)
    while wire.recv(1 << 16):  # closed with a rest of the request unread, the connection would be reset, answer and all
        pass


HEAD = b"HTTP/1.1 200 OK\r\n"
TOO_SLOW = "gave no answer within webhook.timeout_s (0.4 s)"
NO_HTTP = "does not answer in HTTP"
HOSTILE: dict[str, tuple[Callable[[socket.socket], None], str]] = {
    "takes the connection and is silent": (lambda wire: wire.recv(1 << 16) and time.sleep(60), TOO_SLOW),
    "drips a status line": (lambda wire: drips(wire, b"HTTP/1.1 2", b"0"), TOO_SLOW),
    "says 100 Continue for ever": (lambda wire: floods(wire, b"", b"HTTP/1.1 100 Continue\r\n\r\n"), TOO_SLOW),
    "never ends its headers": (lambda wire: floods(wire, HEAD, b"X: " + b"y" * 1000 + b"\r\n"), NO_HTTP),
    "one endless header": (lambda wire: floods(wire, HEAD + b"X: ", b"y" * 10_000), NO_HTTP),
    "garbage": (lambda wire: says(wire, bytes(range(256)) * 10), NO_HTTP),
    "an odd status": (lambda wire: says(wire, b"HTTP/1.1 99999999999999999999 OK\r\n\r\n"), NO_HTTP),
    "hangs up": (lambda wire: None, "closed the connection instead of answering"),
}  # fmt: skip


@pytest.mark.quiet
@pytest.mark.parametrize("kind", HOSTILE)
def test_no_answer_is_retried_and_never_takes_longer_than_allowed(kind: str) -> None:
    talk, cause = HOSTILE[kind]
    with raw_server(talk) as url:
        sink = Webhook(WebhookConfig(url=url, timeout_s=TIMEOUT_S), Health(), SystemClock())
        begin = time.monotonic()
        with pytest.raises(RetryError) as caught:
            sink.deliver([stored(1), stored(2)])
        assert cause in str(caught.value)
        assert time.monotonic() - begin < 3 * TIMEOUT_S + 1
        sink.close()


@pytest.mark.parametrize(
    "talk",
    [
        lambda wire: says(wire, HEAD + b"X:"),
        lambda wire: drips(wire, HEAD, b"X: y\r\n"),
        lambda wire: drips(wire, HEAD + b"Content-Length: 1000000\r\n\r\n", b"x"),
        lambda wire: floods(wire, HEAD + b"\r\n", b"x" * 10_000),
        lambda wire: floods(wire, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"2710\r\n" + b"x" * 10_000 + b"\r\n"),
        lambda wire: floods(wire, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"nonsense"),
        lambda wire: says(wire, HEAD + b"Content-Length: 50\r\n\r\nshort"),
    ],
    ids=["no end of headers", "drips headers", "drips", "endless", "endless chunks", "broken chunks", "cut off"],
)
def test_what_follows_the_status_is_bounded_and_the_status_counts(talk: Callable[[socket.socket], None]) -> None:
    with raw_server(talk) as url:
        sink = Webhook(WebhookConfig(url=url, timeout_s=TIMEOUT_S), Health(), SystemClock())
        assert sink.deliver([stored(1), stored(2)]) == 2
        sink.close()


def test_a_tls_handshake_that_never_ends_is_given_up() -> None:
    with silent_listener() as port:
        sink = Webhook(WebhookConfig(url=f"https://127.0.0.1:{port}/", timeout_s=TIMEOUT_S), Health(), SystemClock())
        with pytest.raises(RetryError, match="gave no answer within"):
            sink.deliver([stored(1)])
        sink.close()


def test_closing_ends_a_request_that_waits() -> None:
    reached = threading.Event()

    def talk(wire: socket.socket) -> None:
        wire.recv(1 << 16)
        reached.set()
        time.sleep(60)

    with raw_server(talk) as url:
        sink = Webhook(WebhookConfig(url=url, timeout_s=60), Health(), SystemClock())
        ended: list[str] = []

        def deliver() -> None:
            with pytest.raises(RetryError) as caught:
                sink.deliver([stored(1)])
            ended.append(str(caught.value))

        thread = threading.Thread(target=deliver)
        thread.start()
        assert reached.wait(10)
        sink.close()
        thread.join(5)
        assert ended
        with pytest.raises(RetryError, match="the agent stops"):
            sink.deliver([stored(1)])


def test_a_webhook_that_hangs_delays_neither_mqtt_nor_files(tmp_path: Path, ledger: Ledger) -> None:
    """The others have all results before the first request to the webhook is even given up."""
    health, clock = Health(), SystemClock()
    config = ResultsConfig(directory=str(tmp_path / "results"))
    asked, answered = threading.Event(), threading.Event()

    def talk(wire: socket.socket) -> None:
        wire.recv(1 << 16)
        asked.set()
        answered.wait(60)
        wire.sendall(HEAD + b"Content-Length: 0\r\n\r\n")

    with (
        Mosquitto(tmp_path / "broker") as broker,
        Listener(broker.port, "t/result") as listener,
        raw_server(talk) as url,
    ):
        sinks = [
            JsonFiles(config),
            MqttSink(MqttConfig(host="127.0.0.1", port=broker.port), "t", dict, health, clock),
            Webhook(WebhookConfig(url=url, timeout_s=30), health, clock),
        ]
        ledger.register([sink.name for sink in sinks])
        shippers = [Shipper(sink, ledger, health, clock) for sink in sinks]
        for shipper in shippers:
            shipper.start()
        ledger.commit([an_entry(0)])
        assert asked.wait(10), "the webhook hangs from here on"
        for number in range(1, 500):
            ledger.commit([an_entry(number)])
        assert shippers[0].wait_drained(20)
        assert shippers[1].wait_drained(20)
        listener.until(lambda heard: len(heard) >= 500)
        assert ledger.depth("webhook") == 500
        assert not health.counters().get("webhook_delivered")
        answered.set()
        stop_all(shippers, 0.5)
    lines = (tmp_path / "results" / "2026-11-22.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["sequence"] for line in lines] == list(range(1, 501))


def test_outages_and_slowness_lose_nothing_and_keep_the_order(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.delivery.shipper._FIRST_PAUSE_S", 0.01)
    health, clock = Health(), SystemClock()
    moods = itertools.cycle(
        [(200, {}, b"")] * 13 + [(503, {}, b""), (500, {}, b"oops"), (429, {"Retry-After": "0"}, b"")]
    )
    with WebServer() as server:
        server.answer = lambda *_: next(moods)
        sink = Webhook(WebhookConfig(url=server.url, timeout_s=2), health, clock)
        ledger.register(["webhook"])
        shipper = Shipper(sink, ledger, health, clock)
        shipper.start()
        for number in range(200):
            ledger.commit([an_entry(number)])
            if number in (50, 120):
                server.until(lambda least=number // 2: len(server.posts) > least)  # type: ignore[misc]
                server.stop()
                ledger.commit([an_entry(1000 + number)])
                server.start()
                shipper.wake()
        assert shipper.wait_drained(60)
        shipper.stop()
    keys = {body["sequence"]: headers["Idempotency-Key"] for headers, body in server.posts}
    assert all(keys[body["sequence"]] == body["result_id"] for _, body in server.posts)
    assert list(dict.fromkeys(body["sequence"] for _, body in server.posts)) == list(range(1, 203))


def test_a_station_posts_what_it_writes_to_disk(tmp_path: Path) -> None:
    with WebServer() as server:
        station = Station(tmp_path, webhook={"url": server.url})
        for level in (10, 128, 250):
            station.put(f"weld_{level}.png", flat_png(level))
        assert station.once().returncode == 0
        assert [body for _, body in server.posts] == station.lines()
        server.answer = lambda *_: (503, {}, b"")
        station.put("late.png", flat_png(40))
        with station.running():
            server.until(lambda: len(server.asked) > 3)
            server.answer = lambda *_: (200, {}, b"")
            server.until(lambda: len(server.posts) == 4)
        assert [body for _, body in server.posts] == station.lines()
