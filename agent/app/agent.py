"""The life of a station: threads, what a signal asks for, and the order of stop.

    start: lock ▸ bundle (verified, self-tested) ▸ ledger ▸ shippers ▸ inspector ▸ sources
    stop:  sources ▸ inspector finishes what is claimed ▸ shippers deliver what they can ▸ broker goodbye ▸ ledger

Invariants: one agent a state folder; nothing that is away (broker, folder) stops a start; a thread that fails is
logged, shown on status and started again, or ends the agent, never silently gone.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable
from typing import Any

from agent import memory
from agent.app.assembly import Parts, assemble
from agent.app.condition import Condition
from agent.app.foresight import Foresight
from agent.app.metrics import Metrics
from agent.app.watchdog import Watchdog
from agent.clock import Clock, SystemClock
from agent.config import AgentConfig
from agent.delivery.shipper import stop_all
from agent.errors import FatalError, RetryError
from agent.health import Health
from agent.logs import log
from agent.ports import Source
from agent.pulse import Pulse

STOP_DELIVER_S = 5.0  #: how long a stop goes on delivering
STOP_RELEASE_S = 2.0  #: how long it goes on archiving and deleting
ONCE_RELEASE_S = 60.0  #: how long ``run --once`` does: no rescan follows that would
ONCE_DELIVER_S = 10.0  #: how long ``run --once`` waits for a broker
HEALTH_S = 10.0
_TICK_S = 0.25
_ONCE_TICK_S = 0.05
_SOURCE_AGAIN_S = 5.0
_log = log("app")


class Agent:
    """One station, from configuration to a clean end. Constructing it neither opens nor starts anything."""

    def __init__(
        self,
        config: AgentConfig,
        *,
        clock: Clock | None = None,
        simulated: bool = False,
        watchdog: Watchdog | None = None,
    ) -> None:
        self._config, self._clock, self._simulated = config, clock or SystemClock(), simulated
        self._watchdog, self._pulse = watchdog or Watchdog(), Pulse()
        self.health = Health()
        self.ready = threading.Event()  #: set once the sources run
        self._stop = threading.Event()
        self._failed = threading.Event()
        self._changed = threading.Event()  #: the main thread should look: stop, or a new status
        self._asked = False
        self.start_again = False  #: after ``run``: the ledger was damaged while in use, and a new start sets it aside

    def stop(self) -> None:
        """Ask for the end: finish what is claimed, deliver what it can, return from ``run``. From any thread."""
        self._stop.set()
        self._changed.set()

    def ask_to_stop(self) -> None:
        """The same from a signal handler, which may take no lock: the main thread looks at it with its next tick."""
        self._asked = True

    def run(self, *, once: bool = False) -> int:
        """The whole life. Exit code: 0, or 1 when ``once`` left something undone or a part failed for good.

        Raises ``UsageError`` for what the user must change before it can start.
        """
        memory.frugal()
        with contextlib.ExitStack() as closing:

            def status() -> dict[str, Any]:
                return condition.status(self._inspecting())

            parts = assemble(
                self._config,
                self._clock,
                status,
                closing,
                health=self.health,
                simulated=self._simulated,
                once=once,
            )
            foresight = Foresight(self._config, self.health, self._clock)
            condition = Condition(self._config, parts, foresight, self._clock)
            if self._config.metrics is not None:
                metrics = Metrics(self._config.metrics, self.health, condition.gauges, status)
                closing.callback(metrics.stop)
                metrics.start()
            closing.callback(foresight.stop)
            if not once:
                foresight.start()
            closing.callback(parts.retention.stop)
            parts.retention.start()
            memory.give_back()
            return self._work(parts, condition, once)

    def _inspecting(self) -> bool:
        return self.ready.is_set() and not self._ending()

    def _ending(self) -> bool:
        return self._asked or self._stop.is_set()

    def _work(self, parts: Parts, condition: Condition, once: bool) -> int:
        self.health.on_change(self._changed.set)
        for shipper in parts.shippers:
            shipper.start()
        parts.commands.start()
        parts.bundles.start()
        inspecting = threading.Thread(target=self._inspect, args=(parts,), name="inspector")
        inspecting.start()
        watching = [
            threading.Thread(target=self._watch, args=(source, parts, once), name=f"source {source.name}", daemon=True)
            for source in parts.sources.values()
        ]
        for thread in watching:
            thread.start()
        self.ready.set()
        _log.info("station %s watches %s", self._config.station.name, ", ".join(parts.sources))
        try:
            if once:
                self._tend_once(parts, condition, watching)
            else:
                pulses = {"inspector": parts.inspector.pulse, "main thread": self._pulse}
                with self._watchdog.watching(pulses, lambda: _summary(self.health)):
                    self._tend(parts, condition)
        finally:
            if parts.ledger.damaged:
                _log.error("ledger_damaged: met while in use; the agent sets it aside and begins a new one")
            delivered = self._wind_down(parts, watching, inspecting, once)
        if not self._failed.is_set():
            parts.bundles.rest()
        if parts.ledger.damaged:
            self.start_again = not once and not self._asked
            return 1
        return 1 if self._failed.is_set() or (once and not delivered) else 0

    # -- threads -----------------------------------------------------------------------------------------------------

    def _inspect(self, parts: Parts) -> None:
        """The inspector, without which the agent is nothing: should it fail, the agent ends with exit code 1."""
        try:
            parts.inspector.run(parts.sources)
        except Exception:  # noqa: BLE001  # logged whole and turned into exit code 1
            if not parts.ledger.damaged:  # that the main thread tells
                _log.exception("inspector_failed: the agent ends, images without a result stay where they are")
                self._failed.set()
            parts.intake.end()
            self.stop()

    def _watch(self, source: Source, parts: Parts, once: bool) -> None:
        """Run a source; should it fail, say so and start it again: the other sources and the rest go on."""
        problem = f"source_failed:{source.name}"
        while not self._stop.is_set():
            try:
                source.run(parts.intake.offer, self._stop, once=once)
                return
            except Exception as error:  # noqa: BLE001  # the thread's last line: logged whole, shown, tried again
                if parts.ledger.damaged:
                    return
                self.health.raise_problem(problem, str(error))
                _log.exception("source_failed: %s: %s; starting it again in %g s", source.name, error, _SOURCE_AGAIN_S)
                if once:
                    self._failed.set()
                    return
                self._stop.wait(_SOURCE_AGAIN_S)
                self.health.over(problem, "it is started again")

    def _tend(self, parts: Parts, condition: Condition) -> None:
        """The main thread's round: status on change, health, free space; until stop."""
        published: object = None
        next_health = self._clock.monotonic()
        while not self._ending():
            self._pulse.step("its round: status, space, bundles")
            self._changed.wait(_TICK_S)
            self._changed.clear()
            if parts.ledger.damaged:
                break
            if parts.mqtt is not None and (shown := condition.gist(self._inspecting())) != published:
                published = shown
                parts.mqtt.publish_status()
            condition.watch_space()
            parts.bundles.look()
            now = self._clock.monotonic()
            try:
                if now >= next_health and parts.mqtt is not None:
                    next_health = now + HEALTH_S
                    parts.mqtt.publish_health(condition.gauges())
            except (RetryError, FatalError, OSError) as error:
                _log.warning("health_delayed: a disk in trouble: %s; tried again", error)

    def _tend_once(self, parts: Parts, condition: Condition, watching: list[threading.Thread]) -> None:
        """Until the sources have offered all there is. Nobody waits beside for a folder or for space to come."""
        while not self._ending() and (alive := [thread for thread in watching if thread.is_alive()]):
            condition.watch_space()
            if not parts.intake.is_open():
                break
            alive[0].join(_ONCE_TICK_S)
        undone = {"disk_low", "folder_missing", "folder_unreadable", "camera_stalled"}
        if {problem.partition(":")[0] for problem in self.health.problems()} & undone:
            self._failed.set()

    def _wind_down(
        self, parts: Parts, watching: list[threading.Thread], inspecting: threading.Thread, once: bool
    ) -> bool:
        """The order of stop. False when something stays undelivered, which the next start delivers."""
        self._stop.set()
        parts.commands.stop()
        parts.intake.end()
        for thread in watching:
            thread.join(STOP_DELIVER_S)
        inspecting.join(STOP_DELIVER_S)
        parts.inspector.give_up()
        inspecting.join()
        _close_all(parts.sources.values(), ONCE_RELEASE_S if once and not self._asked else STOP_RELEASE_S)
        if once and not self._asked:  # a broker that is away is waited for; at a stop it is not
            until = self._clock.monotonic() + ONCE_DELIVER_S
            for shipper in parts.shippers:
                shipper.wait_drained(until - self._clock.monotonic())
        stop_all(parts.shippers, STOP_DELIVER_S)
        left = {sink.name: depth for sink in parts.sinks if (depth := parts.ledger.depth(sink.name))}
        for name, depth in left.items():
            _log.warning(
                "undelivered_at_stop: %d results are not delivered to %s yet; they are kept for the next start",
                depth,
                name,
            )
        _log.info("stopped")
        return not left


def _summary(health: Health) -> str:
    """The line of ``systemctl status``."""
    return f"{health.counters()['inspected']} images inspected; {', '.join(health.problems()) or 'no problems'}"


def _close_all(sources: Iterable[Source], within_s: float) -> None:
    """All of them share the time: one whose target hangs must not make the stop long."""
    until = time.monotonic() + within_s
    for source in sources:
        source.close(max(0.0, until - time.monotonic()))
