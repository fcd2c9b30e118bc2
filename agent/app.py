"""The composition root: the only module that names concrete classes; signals, threads, and the order of stop.

    start: lock ▸ bundle (verified, self-tested) ▸ ledger ▸ shippers ▸ inspector ▸ sources
    stop:  sources ▸ inspector finishes what is claimed ▸ shippers deliver what they can ▸ broker goodbye ▸ ledger

Invariants: one agent a state folder; nothing that is away (broker, folder) stops a start; a thread that fails is
logged, shown on status and started again, or ends the agent, never silently gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec

from agent import __version__, memory
from agent.clock import Clock, SystemClock, iso_utc
from agent.config import AgentConfig
from agent.delivery.json_files import JsonFiles
from agent.delivery.mqtt import MqttSink
from agent.delivery.shipper import Shipper, stop_all
from agent.demo.broker import EmbeddedBroker
from agent.errors import UsageError
from agent.health import Health
from agent.inspection import Inspector, Intake
from agent.ledger import Ledger
from agent.logs import log
from agent.model.store import Loaded, load
from agent.ports import Sink
from agent.result import Station
from agent.sources.folder import FolderSource

STOP_DELIVER_S = 5.0  #: how long a stop goes on delivering
ONCE_DELIVER_S = 10.0  #: how long ``run --once`` waits for a broker
HEALTH_S = 10.0
HOUSEKEEPING_S = 3600.0
_TICK_S = 1.0
_SOURCE_AGAIN_S = 5.0
_log = log("app")


class Agent:
    """One station, from configuration to a clean end. Constructing it neither opens nor starts anything."""

    def __init__(self, config: AgentConfig, *, clock: Clock | None = None, simulated: bool = False) -> None:
        self._config, self._clock, self._simulated = config, clock or SystemClock(), simulated
        self.health = Health()
        self.ready = threading.Event()  #: set once the sources run
        self._stop = threading.Event()
        self._failed = threading.Event()
        self._changed = threading.Event()
        self._intake = Intake()
        self._sources: dict[str, FolderSource] = {}

    def stop(self) -> None:
        """Ask for the end: finish what is claimed, deliver what it can, return from ``run``. From any thread."""
        self._stop.set()
        self._changed.set()

    def run(self, *, once: bool = False) -> int:
        """The whole life. Exit code: 0, or 1 when ``once`` left something undelivered or a part failed for good.

        Raises ``UsageError`` for what the user must change before it can start.
        """
        config = self._config
        memory.frugal()
        state = Path(config.state)
        make_folder(state, "state")
        make_folder(Path(config.results.directory), "results.directory")
        with contextlib.ExitStack() as closing:
            closing.enter_context(only_one(state, config.station.name, self._clock))
            self._loaded = load(config.bundle.initial)
            memory.give_back()
            self._announce(self._loaded)
            self._ledger = Ledger.open(state, self._clock, self.health)
            closing.callback(self._ledger.close)
            self._sinks(closing)
            self._shippers = [
                Shipper(sink, self._ledger, self.health, self._clock) for sink in self._sinks_by_name.values()
            ]
            self._sources = {
                source.name: FolderSource(source, config.zone, self._ledger, self.health, self._clock, self._simulated)
                for source in config.sources
            }
            return self._work(once)

    # -- the parts ---------------------------------------------------------------------------------------------------

    def _sinks(self, closing: contextlib.ExitStack) -> None:
        config = self._config
        self._sinks_by_name: dict[str, Sink] = {}
        self._mqtt: MqttSink | None = None
        if config.results.per_image or config.results.daily_log:
            files = JsonFiles(config.results)
            self._sinks_by_name[files.name] = files
        if config.mqtt is not None:
            mqtt = config.mqtt
            if mqtt.embedded:
                broker = closing.enter_context(EmbeddedBroker(mqtt.port))
                mqtt = msgspec.structs.replace(mqtt, host=broker.host, port=broker.port)
                _log.warning("embedded broker on %s:%d: for demonstrations, it keeps nothing", broker.host, broker.port)
            self._mqtt = MqttSink(mqtt, config.topic, self._status, self.health, self._clock)
            self._sinks_by_name[self._mqtt.name] = self._mqtt
        self._ledger.register(list(self._sinks_by_name))

    def _announce(self, loaded: Loaded) -> None:
        facts = loaded.model.facts
        for refusal in loaded.refusals:
            _log.warning("bundle_variant_refused: %s; using %s instead", refusal, facts.variant)
        deviation = f"golden images within {loaded.self_test_deviation:.1g}"
        _log.info("bundle %s %s (%s): self-test passed, %s", facts.name, facts.version, facts.variant, deviation)
        if loaded.notice:
            _log.warning("bundle %s: %s", facts.name, loaded.notice)

    # -- the work ----------------------------------------------------------------------------------------------------

    def _work(self, once: bool) -> int:
        station = Station(**{field: getattr(self._config.station, field) for field in Station.__struct_fields__})
        self._inspector = Inspector(self._intake, self._loaded.model, station, self._ledger, self._clock, self.health)
        self.health.on_change(self._changed.set)
        for shipper in self._shippers:
            shipper.start()
        inspecting = threading.Thread(target=self._guarded(self._inspect_all), name="inspector")
        inspecting.start()
        watching = [
            threading.Thread(target=self._watch, args=(source, once), name=f"source {source.name}", daemon=True)
            for source in self._sources.values()
        ]
        for thread in watching:
            thread.start()
        self.ready.set()
        _log.info("station %s watches %s", self._config.station.name, ", ".join(self._sources))
        try:
            self._tend(watching if once else None)
        finally:
            code = self._wind_down(watching, inspecting, ONCE_DELIVER_S if once else STOP_DELIVER_S)
        return code if once or self._failed.is_set() else 0

    def _inspect_all(self) -> None:
        self._inspector.run(self._sources)

    def _watch(self, source: FolderSource, once: bool) -> None:
        """Run a source; should it fail, say so and start it again: the other sources and the rest go on."""
        problem = f"source_failed:{source.name}"
        while not self._stop.is_set():
            try:
                source.run(self._intake.offer, self._stop, once=once)
                return
            except Exception as error:  # noqa: BLE001  # the thread's last line: logged whole, shown, tried again
                self.health.raise_problem(problem, str(error))
                _log.exception("source_failed: %s: %s; starting it again in %g s", source.name, error, _SOURCE_AGAIN_S)
                if once:
                    self._failed.set()
                    return
                self._stop.wait(_SOURCE_AGAIN_S)
                self.health.clear_problem(problem)

    def _guarded(self, work: Callable[[], None]) -> Callable[[], None]:
        """Work without which the agent is nothing: should it fail, the agent ends with exit code 1."""

        def guarded() -> None:
            try:
                work()
            except Exception:  # noqa: BLE001  # logged whole and turned into exit code 1
                _log.exception("the inspector failed; the agent ends, its images stay where they are")
                self._failed.set()
                self.stop()

        return guarded

    def _tend(self, until: list[threading.Thread] | None) -> None:
        """The main thread's round: status on change, health, free space, housekeeping; until stop or sources end."""
        next_health = self._clock.monotonic()
        next_housekeeping = self._clock.monotonic() + _TICK_S
        while not self._stop.is_set():
            if until is not None and not any(thread.is_alive() for thread in until):
                return
            self._changed.wait(0.05 if until is not None else _TICK_S)
            if self._changed.is_set():
                self._changed.clear()
                self._publish_status()
            self._watch_space()
            now = self._clock.monotonic()
            if now >= next_health:
                next_health = now + HEALTH_S
                if self._mqtt is not None:
                    self._mqtt.publish_health(self.gauges())
            if now >= next_housekeeping:
                next_housekeeping = now + HOUSEKEEPING_S
                self._keep_house()

    def _wind_down(self, watching: list[threading.Thread], inspecting: threading.Thread, deliver_s: float) -> int:
        """The order of stop. 1 when something stays undelivered, which the next start delivers."""
        self._stop.set()
        for thread in watching:
            thread.join(STOP_DELIVER_S)
        self._intake.end()
        inspecting.join(STOP_DELIVER_S)
        self._inspector.give_up()
        inspecting.join()
        stop_all(self._shippers, deliver_s)
        left = {name: depth for name in self._sinks_by_name if (depth := self._ledger.depth(name))}
        for name, depth in left.items():
            _log.warning(
                "%d results are not delivered to %s yet; they are kept and go out at the next start", depth, name
            )
        _log.info("stopped")
        return 1 if left or self._failed.is_set() else 0

    # -- condition ---------------------------------------------------------------------------------------------------

    def _status(self) -> dict[str, Any]:
        """What the status topic says beside the connection's own fields."""
        loaded = self._loaded
        return {
            "agent": __version__,
            "inspecting": self.ready.is_set() and not self._stop.is_set() and self._intake.is_open(),
            "problems": list(self.health.problems()),
            "bundle": {**msgspec.to_builtins(loaded.model.facts), "notice": loaded.notice},
            "sources": [source.state() for source in self._sources.values()],
        }

    def _publish_status(self) -> None:
        if self._mqtt is not None:
            self._mqtt.publish_status()

    def gauges(self) -> dict[str, Any]:
        """Counters and gauges for ``…/health``."""
        times = sorted(self._inspector.inference_ms)
        oldest = {
            name: iso_utc(since) if (since := self._ledger.oldest_undelivered(name)) else None
            for name in self._sinks_by_name
        }
        return {
            "time": iso_utc(self._clock.now()),
            "counters": self.health.counters(),
            "backlog": self._intake.backlog(),
            "ledger_depth": {name: self._ledger.depth(name) for name in self._sinks_by_name},
            "oldest_undelivered": oldest,
            "inference_ms": {"p50": _quantile(times, 0.5), "p99": _quantile(times, 0.99)},
            "disk_free_mb": free_mb(Path(self._config.results.directory)),
        }

    def _watch_space(self) -> None:
        """Below ``min_free_mb`` the sources wait: their images are safer where they are than half written here."""
        wanted = self._config.results.min_free_mb
        if not wanted:
            return
        folders = [Path(self._config.state), Path(self._config.results.directory)]
        free = min((free_mb(folder) or 0 for folder in folders if folder.exists()), default=wanted)
        if free < wanted:
            detail = f"{free} MB free, results.min_free_mb is {wanted}"
            if self.health.raise_problem("disk_low", detail):
                _log.error("disk_low: %s; inspection waits until there is space, images stay where they are", detail)
        elif self.health.clear_problem("disk_low"):
            _log.info("disk_low is over; inspection goes on")
        self._intake.pause(free < wanted)

    def _keep_house(self) -> None:
        """Let go of what is older than ``results.keep_days`` and wholly delivered."""
        oldest = self._clock.now() - timedelta(days=self._config.results.keep_days)
        while self._ledger.prune(oldest) and not self._stop.is_set():
            pass
        files = self._sinks_by_name.get(JsonFiles.name)
        if isinstance(files, JsonFiles):
            files.prune(oldest, self._ledger.oldest_undelivered(files.name))


def make_folder(folder: Path, key: str) -> None:
    """Make sure a configured folder is there and writable. ``UsageError`` names its key."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{key}: {folder}: {error.strerror}; create it or choose another") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{key}: {folder}: not writable for this user; change its owner or choose another")


@contextlib.contextmanager
def only_one(state: Path, station: str, clock: Clock) -> Iterator[None]:
    """Hold the state folder for this process. ``UsageError`` names the agent that holds it already.

    The lock is the kernel's, so that it goes with the process however that ends.
    """
    path = state / "agent.lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(handle, 400, 0).decode(errors="replace").strip() or "another agent"
            raise UsageError(f"state: {state} is in use by {holder}; stop it first, or give this one its own") from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"pid {os.getpid()}, station {station}, since {iso_utc(clock.now())}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def free_mb(folder: Path) -> int | None:
    """Megabytes free where ``folder`` is; None when it cannot be told."""
    try:
        return shutil.disk_usage(folder).free >> 20
    except OSError:
        return None


def _quantile(ordered: list[float], part: float) -> float | None:
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else None
