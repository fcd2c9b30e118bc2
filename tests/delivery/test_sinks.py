"""One suite for every sink: what the port says holds for the fake as it does for the disk and for a real broker."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from agent.clock import SystemClock
from agent.config import MqttConfig, ResultsConfig, WebhookConfig
from agent.delivery.json_files import JsonFiles
from agent.delivery.mqtt import MqttSink
from agent.delivery.shipper import Shipper
from agent.delivery.sparkplug import SparkplugSink
from agent.delivery.webhook import Webhook
from agent.errors import RejectError, RetryError
from agent.frame import readable_name
from agent.health import Health
from agent.ledger import Ledger
from agent.ports import Sink, Stored, Unsure
from tests.support.fakes import FakeSink
from tests.support.mosquitto import Listener, Mosquitto
from tests.support.mqtt_station import Watched
from tests.support.results import an_entry, stored
from tests.support.sparkplug_station import host_of, settings
from tests.support.web import WebServer


class Far(Protocol):
    """A sink and its far end."""

    sink: Sink

    def received(self, count: int) -> list[dict[str, Any]]:
        """What has arrived, waiting for ``count`` different results (or more)."""
        ...

    def leave(self) -> None: ...

    def come_back(self) -> None: ...

    def too_much(self, sequence: int) -> Stored | None:
        """A result that this far end never takes; None where it takes everything."""
        ...


class Mortal(Far, Protocol):
    """One that may lose what it had accepted."""

    def die(self) -> None:
        """It is gone without a word, with what it had in memory, and comes back."""
        ...

    def heard(self, count: int) -> list[int]:
        """The sequences of all that has arrived, the same ones too, waiting for ``count``."""
        ...


class FarFake:
    def __init__(self, _folder: Path, _stack: ExitStack) -> None:
        self.sink = FakeSink()

    def received(self, count: int) -> list[dict[str, Any]]:
        self.sink.until(lambda: len(self.sink.taken) >= count)
        return [json.loads(one.body) for one in self.sink.taken]

    def leave(self) -> None:
        self.sink.away = "away"

    def come_back(self) -> None:
        self.sink.away = None

    def die(self) -> None:
        self.sink.doubts.append(1)
        self.sink.wake()

    def heard(self, count: int) -> list[int]:
        return [one["sequence"] for one in self.received(count)]

    def too_much(self, sequence: int) -> Stored | None:
        self.sink.refuses.add(sequence)
        return stored(sequence)


class FarDisk:
    def __init__(self, folder: Path, _stack: ExitStack) -> None:
        self.folder = folder / "results"
        self.sink = JsonFiles(ResultsConfig(directory=str(self.folder)))

    def received(self, count: int) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in (self.folder / "2026-11-22.jsonl").read_bytes().splitlines()]
        assert len(found) >= count
        assert sorted(result["result_id"] for result in found) == sorted(
            json.loads(path.read_bytes())["result_id"] for path in self.folder.glob("*/*.json")
        )
        return found

    def leave(self) -> None:
        aside = self.folder.with_name("aside")
        if self.folder.exists():
            self.folder.rename(aside)
        self.folder.write_text("in the way")

    def come_back(self) -> None:
        self.folder.unlink()
        if (aside := self.folder.with_name("aside")).exists():
            aside.rename(self.folder)

    def too_much(self, sequence: int) -> Stored | None:
        return None


class FarBroker:
    def __init__(self, folder: Path, stack: ExitStack) -> None:
        lines = ["persistence true", f"persistence_location {folder}/", "message_size_limit 8000"]
        self.broker = stack.enter_context(Mosquitto(folder / "broker", lines=lines))
        self.listener = stack.enter_context(Listener(self.broker.port, "t/result"))
        config = MqttConfig(host="127.0.0.1", port=self.broker.port)
        self.health = Watched()
        self.sink = MqttSink(config, "t", dict, self.health, SystemClock())

    def received(self, count: int) -> list[dict[str, Any]]:
        return self.listener.until(lambda heard: len({result["result_id"] for result in heard}) >= count)

    def leave(self) -> None:
        self.broker.stop()

    def come_back(self) -> None:
        self.broker.start()

    def die(self) -> None:
        self.broker.kill()
        self.health.until(lambda problems: "broker_away" in problems)
        self.broker.start()

    def heard(self, count: int) -> list[int]:
        return [one["sequence"] for one in self.listener.until(lambda heard: len(heard) >= count)]

    def too_much(self, sequence: int) -> Stored | None:
        return stored(sequence, pad=9000)


class FarWeb:
    def __init__(self, _folder: Path, stack: ExitStack) -> None:
        self.server = stack.enter_context(WebServer())
        self.server.answer = lambda _method, _headers, body: (413 if len(body) > 8000 else 200, {}, b"")
        self.sink = Webhook(WebhookConfig(url=self.server.url), Health(), SystemClock())

    def received(self, count: int) -> list[dict[str, Any]]:
        self.server.until(lambda: len({body["result_id"] for _, body in self.server.posts}) >= count)
        return [body for _, body in self.server.posts]

    def leave(self) -> None:
        self.server.stop()

    def come_back(self) -> None:
        self.server.start()

    def too_much(self, sequence: int) -> Stored | None:
        return stored(sequence, pad=9000)


class FarScada:
    """A broker, and behind it the primary host, which follows the specification."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.broker = stack.enter_context(Mosquitto(folder / "broker", lines=["message_size_limit 8000"]))
        self.host = stack.enter_context(host_of(self.broker.port, host_id="scada", lenient_gaps=True))
        (folder / "state").mkdir()
        config = settings(folder / "state", self.broker.port, primary_host="scada")
        self.sink = SparkplugSink(config, lambda: None, (), Health(), SystemClock())

    def received(self, count: int) -> list[dict[str, Any]]:
        self.host.until(lambda: len(self.host.results) >= count)
        assert self.host.faults == []
        return list(self.host.results.values())

    def leave(self) -> None:
        self.broker.stop()

    def come_back(self) -> None:
        self.broker.start()

    def die(self) -> None:
        self.broker.kill()
        self.broker.start()

    def heard(self, count: int) -> list[int]:
        self.host.until(lambda: len(self.host.order) >= count)
        return list(self.host.order)

    def too_much(self, sequence: int) -> Stored | None:
        return stored(sequence, "x" * 9000)


@pytest.fixture(params=[FarFake, FarDisk, FarBroker, FarWeb, FarScada])
def far(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Far]:
    monkeypatch.setattr("agent.delivery.mqtt.sink._QUIET_S", 0.05)
    monkeypatch.setattr("agent.delivery.mqtt.keeper._BACKOFF_S", (0.05, 0.5))
    with ExitStack() as stack:
        end: Far = request.param(tmp_path, stack)
        stack.callback(end.sink.close)
        yield end


def deliver(far: Far, batch: list[Stored]) -> None:
    """As a shipper does, with all the patience that a test has."""
    tries = 200
    while batch:
        if isinstance(far.sink, Unsure):
            far.sink.doubt()  # what comes of it is the shipper's
        try:
            batch = batch[far.sink.deliver(batch) :]
        except RetryError:
            tries -= 1
            assert tries, "the far end never came"


def opened(far: Far) -> Callable[[], None]:
    woken: list[None] = []
    far.sink.open(lambda: woken.append(None))
    return woken.clear


def test_results_arrive_in_order_and_byte_for_byte(far: Far) -> None:
    opened(far)
    batch = [stored(n, f"{n}.png") for n in range(1, 60)]
    deliver(far, batch)
    assert far.received(59) == [json.loads(one.body) for one in batch]


def test_a_batch_that_comes_again_brings_no_new_id(far: Far) -> None:
    opened(far)
    batch = [stored(n) for n in range(1, 6)]
    deliver(far, batch)
    deliver(far, batch)
    assert {result["result_id"] for result in far.received(5)} == {one.result_id for one in batch}


def test_away_means_try_again_and_nothing_is_lost(far: Far) -> None:
    opened(far)
    batch = [stored(n, f"{n}.png") for n in range(1, 21)]
    deliver(far, batch[:7])
    far.leave()
    for _ in range(2):
        with pytest.raises(RetryError):
            far.sink.deliver(batch[7:])
    far.come_back()
    deliver(far, batch[7:])
    arrived = [result["sequence"] for result in far.received(20)]
    assert list(dict.fromkeys(arrived)) == list(range(1, 21))


def test_away_from_the_start_is_no_different(far: Far) -> None:
    far.leave()
    opened(far)
    batch = [stored(1)]
    with pytest.raises(RetryError):
        far.sink.deliver(batch)
    far.come_back()
    deliver(far, batch)
    assert far.received(1)[-1]["result_id"] == batch[0].result_id


def test_what_it_never_takes_is_rejected_and_only_that(far: Far) -> None:
    never = far.too_much(3)
    opened(far)
    batch = [stored(1), stored(2), never or stored(3), stored(4)]
    if never is None:
        deliver(far, batch)
    else:
        deliver(far, batch[:2])
        with pytest.raises(RejectError):
            _until_decided(far, batch[2:])
        deliver(far, batch[3:])
    wanted = [1, 2, 4] if never else [1, 2, 3, 4]
    assert list(dict.fromkeys(result["sequence"] for result in far.received(len(wanted)))) == wanted


def test_what_comes_before_a_rejected_one_counts(far: Far) -> None:
    never = far.too_much(2)
    opened(far)
    batch = [stored(1), never or stored(2), stored(3)]
    assert _until_decided(far, batch) == (3 if never is None else 1)


def _until_decided(far: Far, batch: list[Stored]) -> int:
    for _ in range(200):
        if isinstance(far.sink, Unsure):
            far.sink.doubt()
        try:
            return far.sink.deliver(batch)
        except RetryError:
            continue
    raise AssertionError("the far end never decided")


@pytest.mark.parametrize("far", [FarFake, FarBroker, FarScada], indirect=True)
def test_what_it_took_last_comes_once_more_by_itself_when_it_dies(far: Mortal, ledger: Ledger) -> None:
    ledger.register([far.sink.name])
    shipper = Shipper(far.sink, ledger, Health(), SystemClock())
    shipper.start()
    try:
        ledger.commit([an_entry(n) for n in range(1, 8)])
        assert shipper.wait_drained(20)
        assert far.heard(7) == [*range(1, 8)]
        far.die()
        assert far.heard(14) == [*range(1, 8)] * 2, "and no new result was needed"
        assert shipper.wait_drained(20)
    finally:
        shipper.stop(2)


@pytest.mark.parametrize("raw", [b"caf\xe9_\xff.png", b"x" * 251 + b".png", b"a\nb\x1b[0m.png", "漢字 Ö.png".encode()])
def test_hostile_names_pass(far: Far, raw: bytes) -> None:
    opened(far)
    one = stored(1, readable_name(raw))
    deliver(far, [one])
    assert far.received(1)[0]["image"]["name"] == one.image_name


def test_closing_twice_or_without_open_does_no_harm(far: Far) -> None:
    far.sink.close()
    far.sink.close()
