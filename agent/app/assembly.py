"""From configuration to the parts of a station: here, and nowhere else, concrete classes are chosen."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from agent.app.bundles import Arrival, Bundles, Remote, Shadow
from agent.app.commands import Commands
from agent.app.jobs import Jobs
from agent.app.orders import orders
from agent.app.places import make_folder, only_one
from agent.app.replay import ReplayOrder
from agent.app.retention import Retention, Reviewed
from agent.clock import Clock
from agent.config import AgentConfig, CameraConfig, FolderConfig, MqttConfig
from agent.delivery.json_files import JsonFiles
from agent.delivery.mqtt import MqttSink
from agent.delivery.replays import Replays
from agent.delivery.shipper import Shipper
from agent.demo.broker import EmbeddedBroker
from agent.health import Health
from agent.inspection import Inspector, Intake
from agent.ledger import Ledger
from agent.logs import log
from agent.ports import Sink, Source, Stored
from agent.result import Station
from agent.sources.camera.build import grabber_of, store_of
from agent.sources.camera.grabber import Grabber
from agent.sources.camera.source import CameraSource
from agent.sources.camera.store import FrameStore
from agent.sources.folder import FolderSource

_log = log("app")


@dataclass(frozen=True)
class Parts:
    """A station's parts, put together and not yet started."""

    health: Health
    intake: Intake
    bundles: Bundles
    ledger: Ledger
    inspector: Inspector
    sources: Mapping[str, Source]
    sinks: Sequence[Sink]
    shippers: Sequence[Shipper]
    retention: Retention
    mqtt: MqttSink | None
    commands: Commands
    jobs: Jobs


def assemble(
    config: AgentConfig,
    clock: Clock,
    status: Callable[[], dict[str, Any]],
    closing: contextlib.ExitStack,
    *,
    health: Health,
    simulated: bool,
    once: bool = False,
) -> Parts:
    """Lock, bundle (verified and self-tested), ledger, sinks, sources, in this order; ``closing`` undoes it.

    Raises ``UsageError`` for what the user must change. Nothing that is away (broker, capture folder) is an error.
    """
    grabbers = {one.name: grabber_of(one) for one in config.sources if isinstance(one, CameraConfig)}
    make_folder(Path(config.state), "state")
    make_folder(Path(config.results.directory), "results.directory")
    closing.enter_context(only_one(Path(config.state), config.station.name, clock))
    bundles = Bundles(config, health, clock)
    closing.callback(bundles.stop)
    ledger = Ledger.open(Path(config.state), clock, health)
    closing.callback(ledger.close)
    wants_files = config.results.per_image or config.results.daily_log
    files = JsonFiles(config.results, clock) if wants_files else None
    intake = Intake()
    jobs = Jobs.open(Path(config.state), [source.name for source in config.sources], clock)
    reviewed = Reviewed(config.results)
    stores = {
        one.name: store_of(one, config.results, clock, health, reviewed.interesting(ledger))
        for one in config.sources
        if isinstance(one, CameraConfig)
    }
    sources = {
        source.name: _source(source, config, grabbers, stores, ledger, intake, jobs, health, clock, simulated)
        for source in config.sources
    }
    arrival = Arrival(bundles, Remote(config.bundle, bundles.store))
    replays = Replays(Path(config.state))
    again = ReplayOrder(replays, ledger, config.zone, clock)
    known = {**orders(sources, jobs), **arrival.orders(), **again.orders()}
    commands = Commands(known, config.mqtt.commands if config.mqtt else (), health, clock)
    mqtt = None
    if config.mqtt is not None:
        broker = _with_broker(config.mqtt, closing)
        config = msgspec.structs.replace(config, mqtt=broker)
        mqtt = MqttSink(broker, config.topic, status, health, clock, commands, once=once)
    others = _others(config, ledger, bundles.loaded.model.decision.labels, health, clock)
    sinks: list[Sink] = [sink for sink in (files, mqtt, *others) if sink is not None]
    ledger.register([sink.name for sink in sinks])
    station = Station(**{field: getattr(config.station, field) for field in Station.__struct_fields__})
    inspector = Inspector(intake, bundles.loaded.model, station, ledger, clock, health)
    if mqtt is not None:
        inspector.announce_to(mqtt.tell_live)
    bundles.serve(inspector, Shadow(config.results, health, clock, mqtt.tell_shadow if mqtt else None))
    return Parts(
        health=health,
        intake=intake,
        bundles=bundles,
        ledger=ledger,
        inspector=inspector,
        sources=sources,
        sinks=sinks,
        shippers=[Shipper(sink, ledger, health, clock, replays) for sink in sinks],
        retention=Retention(
            config.results, Path(config.state), ledger, files, [*stores.values()], clock, health, reviewed
        ),
        mqtt=mqtt,
        commands=commands,
        jobs=jobs,
    )


def _others(config: AgentConfig, ledger: Ledger, labels: Sequence[str], health: Health, clock: Clock) -> Iterator[Sink]:
    """Sinks that only their shippers speak to. Few stations have one: what it imports is loaded only there."""
    if config.sparkplug is not None:
        from agent.delivery.sparkplug import SparkplugSink

        def newest() -> Stored | None:
            return next(iter(ledger.after(ledger.last_sequence - 1, 1)), None)

        yield SparkplugSink(config, newest, labels, health, clock)
    if config.webhook is not None:
        from agent.delivery.webhook import Webhook

        yield Webhook(config.webhook, health, clock)


def _source(
    source: FolderConfig | CameraConfig,
    config: AgentConfig,
    grabbers: Mapping[str, Callable[[], Grabber]],
    stores: Mapping[str, FrameStore],
    ledger: Ledger,
    intake: Intake,
    jobs: Jobs,
    health: Health,
    clock: Clock,
    simulated: bool,
) -> Source:
    job_at = partial(jobs.at, source.name)
    if isinstance(source, FolderConfig):
        return FolderSource(source, config.zone, ledger, health, clock, simulated, job_at)
    grabber, store = grabbers[source.name], stores[source.name]
    return CameraSource(source, grabber, store, intake.room, ledger, health, clock, simulated, job_at)


def _with_broker(mqtt: MqttConfig, closing: contextlib.ExitStack) -> MqttConfig:
    """For ``embedded: true`` start the broker and put its address in."""
    if not mqtt.embedded:
        return mqtt
    broker = closing.enter_context(EmbeddedBroker(mqtt.port))
    _log.warning("broker_embedded: on %s:%d: for demonstrations, it keeps nothing", broker.host, broker.port)
    return msgspec.structs.replace(mqtt, host=broker.host, port=broker.port)
