"""What the station says of itself, and the care it takes of its disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from agent import __version__
from agent.app.assembly import Parts
from agent.app.foresight import Foresight
from agent.app.gauges import HealthReport, Quantiles
from agent.app.places import free_mb
from agent.clock import Clock, iso_utc
from agent.config import AgentConfig
from agent.logs import log

_log = log("app")


class Condition:
    """Reads the parts; changes nothing but the intake's pause."""

    def __init__(self, config: AgentConfig, parts: Parts, foresight: Foresight, clock: Clock) -> None:
        self._config, self._parts, self._foresight, self._clock = config, parts, foresight, clock

    def status(self, inspecting: bool) -> dict[str, Any]:
        """What the status topic says beside the connection's own fields."""
        loaded = self._parts.bundles.loaded
        return {
            "agent": __version__,
            "inspecting": inspecting and self._parts.intake.is_open(),
            "problems": list(self._parts.health.problems()),
            "bundle": {
                **msgspec.to_builtins(loaded.model.facts),
                "notice": loaded.notice,
                "signed_by": loaded.signed_by,
                "device": loaded.model.device,
                "warning": self._parts.bundles.warning(),
                "shadow": self._parts.bundles.candidate(),
            },
            "sources": [
                {**one.state(), "job": self._parts.jobs.current(one.name)} for one in self._parts.sources.values()
            ],
        }

    def gist(self, inspecting: bool) -> tuple[object, ...]:
        """The part of ``status`` whose change is worth a message; counts of the sources are not."""
        status = self.status(inspecting)
        sources = tuple((source["name"], source["state"], str(source["job"])) for source in status["sources"])
        return status["inspecting"], tuple(status["problems"]), tuple(status["bundle"].values()), sources

    def gauges(self) -> dict[str, Any]:
        """Counters and gauges for ``…/health``."""
        ledger, sinks = self._parts.ledger, [sink.name for sink in self._parts.sinks]
        times = sorted(self._parts.inspector.inference_ms)
        oldest = {name: ledger.oldest_undelivered(name) for name in sinks}
        kinds = self._parts.health.by_kind()
        report = HealthReport(
            time=iso_utc(self._clock.now()),
            counters=self._parts.health.counters(),
            backlog=self._parts.intake.backlog(),
            ledger_depth={name: ledger.depth(name) for name in sinks},
            oldest_undelivered={name: iso_utc(since) if since else None for name, since in oldest.items()},
            inference_ms=Quantiles(p50=_quantile(times, 0.5), p99=_quantile(times, 0.99)),
            not_decidable={dict(kind)["reason"]: n for (name, kind), n in kinds.items() if name == "not_decidable"},
            disk_free_mb=free_mb(Path(self._config.results.directory)),
            state_free_mb=free_mb(Path(self._config.state)),
            certificates=self._foresight.certificates(),
            clock_synchronized=self._foresight.clock_synchronized,
        )
        return dict(msgspec.to_builtins(report))

    def watch_space(self) -> None:
        """Below ``min_free_mb`` the sources wait: their images are safer where they are than half written here."""
        wanted = self._config.results.min_free_mb
        if not wanted:
            return
        folders = [Path(self._config.state), Path(self._config.results.directory)]
        free = min((space for folder in folders if (space := free_mb(folder)) is not None), default=0)
        health = self._parts.health
        low = free < wanted * (1.02 if "disk_low" in health.problems() else 1)  # a little more before it is over
        if low:
            detail = f"{free} MB free, results.min_free_mb is {wanted}"
            if health.raise_problem("disk_low", detail):
                _log.error("disk_low: %s; inspection waits until there is space, images stay where they are", detail)
        else:
            health.over("disk_low", "inspection goes on")
        self._parts.intake.pause(low)


def _quantile(ordered: list[float], part: float) -> float | None:
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else None
