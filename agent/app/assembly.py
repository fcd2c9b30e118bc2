"""From configuration to the parts of a station: here, and nowhere else, concrete classes are chosen."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from agent.app.archives import known_to
from agent.app.belief import Belief, slack_of
from agent.app.bundles import Arrival, Bundles, Remote, Shadow
from agent.app.commands import Commands
from agent.app.jobs import Jobs
from agent.app.orders import orders
from agent.app.origins import Origins
from agent.app.places import make_folder, only_one
from agent.app.replay import ReplayOrder
from agent.app.retention import Retention, Reviewed
from agent.clock import Clock
from agent.config import AgentConfig
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
    origins = Origins(config)
    state = Path(config.state)
    closing.enter_context(_folders(config, clock))
    bundles = Bundles(config, health, clock)
    closing.callback(bundles.stop)
    ledger = Ledger.open(state, clock, health)
    closing.callback(ledger.close)
    files = JsonFiles(config.results, clock) if config.results.per_image or config.results.daily_log else None
    intake = Intake()
    jobs = Jobs.open(state, [source.name for source in config.sources], clock)
    reviewed = Reviewed(config.results)
    belief = _belief(config, ledger, health, clock)
    wanted = reviewed.interesting(ledger)
    stores = origins.stores(clock, health, wanted, belief.before)
    sources = origins.sources(stores, ledger, intake, jobs, health, clock, simulated=simulated)
    archives = origins.archives(clock, health, known_to(ledger, clock, wanted, belief.before))
    replays = Replays(state)
    commands = _commands(
        config, sources, jobs, bundles, ReplayOrder(replays, ledger, config.zone, clock), health, clock
    )
    config = _with_broker(config, closing)
    mqtt = _mqtt(config, ledger, status, commands, health, clock, once=once)
    others = _others(config, ledger, bundles.loaded.model.decision.labels, health, clock)
    sinks: list[Sink] = [sink for sink in (files, mqtt, *others) if sink is not None]
    ledger.register([sink.name for sink in sinks])
    inspector = _inspector(config, intake, bundles, ledger, mqtt, belief, health, clock)
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
            config.results, state, ledger, files, [*stores.values()], clock, health, reviewed, belief, archives
        ),
        mqtt=mqtt,
        commands=commands,
        jobs=jobs,
    )


def _folders(config: AgentConfig, clock: Clock) -> contextlib.AbstractContextManager[None]:
    """The folders that the agent writes to, and the lock that says that they are this agent's."""
    make_folder(Path(config.state), "state")
    make_folder(Path(config.results.directory), "results.directory")
    return only_one(Path(config.state), config.station.name, clock)


def _inspector(
    config: AgentConfig,
    intake: Intake,
    bundles: Bundles,
    ledger: Ledger,
    mqtt: MqttSink | None,
    belief: Belief,
    health: Health,
    clock: Clock,
) -> Inspector:
    """The inspector, and who else hears of what it judged."""
    station = Station(**{field: getattr(config.station, field) for field in Station.__struct_fields__})
    inspector = Inspector(intake, bundles.loaded.model, station, ledger, clock, health)
    if mqtt is not None:
        inspector.announce_to(mqtt.tell_live)
    tell = mqtt.tell_shadow if mqtt else None
    bundles.serve(inspector, Shadow(config.results, health, clock, tell, belief.before))
    return inspector


def _belief(config: AgentConfig, ledger: Ledger, health: Health, clock: Clock) -> Belief:
    """In the clock, for all that removes by age."""
    newest = _newest(ledger)
    slack = slack_of(config.results.keep_days)
    return Belief(Path(config.state), slack, clock, health, newest.created_at if newest else None)


def _newest(ledger: Ledger) -> Stored | None:
    return next(iter(ledger.after(ledger.last_sequence - 1, 1)), None)


def _commands(
    config: AgentConfig,
    sources: Mapping[str, Source],
    jobs: Jobs,
    bundles: Bundles,
    again: ReplayOrder,
    health: Health,
    clock: Clock,
) -> Commands:
    """Every command that a station knows; which are obeyed is for the configuration to say."""
    arrival = Arrival(bundles, Remote(config.bundle, bundles.store))
    known = {**orders(sources, jobs), **arrival.orders(), **again.orders()}
    return Commands(known, config.mqtt.commands if config.mqtt else (), health, clock)


def _mqtt(
    config: AgentConfig,
    ledger: Ledger,
    status: Callable[[], dict[str, Any]],
    commands: Commands,
    health: Health,
    clock: Clock,
    *,
    once: bool,
) -> MqttSink | None:
    if config.mqtt is None:
        return None
    taken = partial(ledger.last_taken, MqttSink.name)
    return MqttSink(config.mqtt, config.topic, status, health, clock, commands, once=once, taken=taken)


def _others(config: AgentConfig, ledger: Ledger, labels: Sequence[str], health: Health, clock: Clock) -> Iterator[Sink]:
    """Sinks that only their shippers speak to. Few stations have one: what it imports is loaded only there."""
    if config.sparkplug is not None:
        from agent.delivery.sparkplug import SparkplugSink

        yield SparkplugSink(
            config, partial(_newest, ledger), labels, health, clock, partial(ledger.last_taken, SparkplugSink.name)
        )
    if config.webhook is not None:
        from agent.delivery.webhook import Webhook

        yield Webhook(config.webhook, health, clock)


def _with_broker(config: AgentConfig, closing: contextlib.ExitStack) -> AgentConfig:
    """For ``embedded: true`` start the broker and put its address in."""
    if config.mqtt is None or not config.mqtt.embedded:
        return config
    broker = closing.enter_context(EmbeddedBroker(config.mqtt.port))
    _log.warning("broker_embedded: on %s:%d: for demonstrations, it keeps nothing", broker.host, broker.port)
    found = msgspec.structs.replace(config.mqtt, host=broker.host, port=broker.port)
    return msgspec.structs.replace(config, mqtt=found)
