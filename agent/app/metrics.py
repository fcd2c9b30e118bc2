"""The station's condition for Prometheus: the values of ``…/health`` and ``…/status`` under Prometheus' conventions.

    Condition ─gauges, status─▶ families ─▶ prometheus_client ─▶ http://127.0.0.1:9464/metrics

Invariants
- A metric is made from what ``…/health`` and ``…/status`` say and from nothing else, here and nowhere else: the two
  cannot tell different stories.
- A scrape reads copies, in a thread of its own: it never waits for an inspection, nor an inspection for it. However
  many ask, the condition is looked at once a second.
- A port that is taken is a problem (``metrics_unavailable``), never the end of the agent; it is tried again.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from agent.app.gauges import GAUGES
from agent.clock import parse_iso
from agent.config import MetricsConfig
from agent.errors import RetryError
from agent.health import BUCKETS_S, Health, Labels, Times
from agent.logs import log

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from agent.app.scraping import Server

PROBLEM = "metrics_unavailable"
_AGAIN_S = 10.0  #: until a port that was taken is tried again
_FRESH_S = 1.0  #: how long one look at the condition serves all who ask
_STOP_S = 5.0
_WELL = ("watching", "polling", "streaming")
_log = log("app")

#: Counters of health whose metric has another name or labels, and what they count; ``*`` becomes the label ``sink``.
#: All the others keep their name, and are explained where it is: in docs/topics.md.
COUNTERS = {
    "inspected": ("inspected", "Images judged, or found not to be decidable."),
    "not_decidable": ("not_decidable", "Results NotDecidable, by the code of their first reason."),
    "errors": ("image_errors", "Images that could not be read or decoded."),
    "camera_gap_s": ("camera_gap_seconds", "Length of the interruptions of cameras that are over."),
    "*_delivered": ("delivered", "Results that a sink has taken."),
    "*_dead_letters": ("dead_letters", "Results that a sink refuses for good."),
}
#: Already a label of another metric.
_LABELS_ALREADY = ("evaluation_",)


def counter_of(name: str) -> tuple[str, Labels, str]:
    """Metric, labels and help of a counter of health."""
    for pattern, (metric, told) in COUNTERS.items():
        head, star, tail = pattern.partition("*")
        if name == pattern or (star and name.startswith(head) and name.endswith(tail)):
            labels: Labels = (("sink", name[: -len(tail)]),) if star else ()
            return f"weldwatch_{metric}", labels, told
    own = re.sub(r"[^a-z0-9_]", "_", name.lower())
    return f"weldwatch_{own}", (), f"The counter {name} of the health topic."


def families(
    health: Mapping[str, Any] | None,
    status: Mapping[str, Any],
    counters: Mapping[tuple[str, Labels], int],
    times: Mapping[str, Times],
) -> Iterator[Metric]:
    """All metrics, from the payloads of the two topics, the counters by kind, and the times of the stages.

    ``health`` is None where a disk in trouble keeps it from being told: then there are no gauges, rather than old ones.
    """
    yield from _counters(counters)
    if health is not None:
        yield from _gauges(health)
    yield _histogram(times)
    yield from _conditions(status)


def _counters(counters: Mapping[tuple[str, Labels], int]) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily

    found: dict[str, CounterMetricFamily] = {}
    kinds = {name for (name, labels) in counters if labels}
    for (name, kind), value in sorted(counters.items()):
        if name.startswith(_LABELS_ALREADY) or (name in kinds and not kind):
            continue
        metric, labels, told = counter_of(name)
        labels += kind
        if metric not in found:
            found[metric] = CounterMetricFamily(metric, told, labels=[label for label, _ in labels])
        found[metric].add_metric([text for _, text in labels], value)
    yield from found.values()


def _gauges(health: Mapping[str, Any]) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    for key, (gauge, told) in GAUGES.items():
        family = GaugeMetricFamily(f"weldwatch_{gauge.metric}", told, labels=[gauge.label] if gauge.label else [])
        values = health[key].items() if gauge.label else [(None, health[key])]
        for label, value in values:
            if isinstance(value, str):
                value = parse_iso(value).timestamp()
            if value is not None:
                family.add_metric([] if label is None else [label], value * gauge.scale)
        yield family


def _histogram(times: Mapping[str, Times]) -> Metric:
    from prometheus_client.core import HistogramMetricFamily

    told = "Time that an image takes, by stage; total is from file to verdict."
    family = HistogramMetricFamily("weldwatch_stage_duration_seconds", told, labels=["stage"])
    for stage, spent in times.items():
        below, buckets = 0, []
        for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), spent.counts, strict=True):
            below += count
            buckets.append((bound, below))
        family.add_metric([stage], buckets, spent.sum_s)
    return family


def _conditions(status: Mapping[str, Any]) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    inspecting = GaugeMetricFamily("weldwatch_inspecting", "1 while images are inspected.")
    inspecting.add_metric([], float(status["inspecting"]))
    yield inspecting
    problems = GaugeMetricFamily("weldwatch_problem", "1 for each problem at present.", labels=["code", "source"])
    for problem in status["problems"]:
        code, _, source = problem.partition(":")
        problems.add_metric([code, source], 1)
    yield problems
    sources = GaugeMetricFamily("weldwatch_source_up", "1 while the source is watched or streams.", labels=["source"])
    for one in status["sources"]:
        sources.add_metric([one["name"]], float(one["state"] in _WELL))
    yield sources
    keys = ("name", "version", "variant", "device")
    told = "Always 1: the agent's version, and the model that judges."
    model = GaugeMetricFamily("weldwatch_model_info", told, labels=["agent", *keys])
    model.add_metric([str(text) for text in (status["agent"], *(status["bundle"][key] for key in keys))], 1)
    yield model


class Metrics:
    """Serves ``/metrics`` from ``start`` to ``stop``. Nothing of prometheus_client is loaded before ``start``."""

    def __init__(
        self,
        config: MetricsConfig,
        health: Health,
        gauges: Callable[[], dict[str, Any]],
        status: Callable[[], dict[str, Any]],
    ) -> None:
        self._config, self._health, self._gauges, self._status = config, health, gauges, status
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._last: tuple[float, list[Metric]] = (float("-inf"), [])
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        """Begin to listen, in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """No more scrapes. Without ``start`` it does nothing."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(_STOP_S)

    def collect(self) -> list[Metric]:
        """What a scrape gets; ``prometheus_client`` calls this."""
        with self._lock:
            if time.monotonic() - self._last[0] >= _FRESH_S:
                try:
                    gauges = self._gauges()
                except RetryError as error:
                    _log.debug("no gauges for this scrape: %s", error)
                    gauges = None
                told = families(gauges, self._status(), self._health.by_kind(), self._health.times())
                self._last = time.monotonic(), list(told)
            return self._last[1]

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                server = self._listen()
            except OSError as error:
                where = f"{self._config.address}:{self._config.port}"
                detail = f"{where}: {error.strerror or error}; is another agent there? give it its own metrics.port"
                if self._health.raise_problem(PROBLEM, detail):
                    _log.warning("%s: %s; the agent goes on without metrics", PROBLEM, detail)
                self._stop.wait(_AGAIN_S)
                continue
            self._health.over(PROBLEM)
            with server:
                while not self._stop.is_set():
                    server.handle_request()
                    server.end_overdue()

    def _listen(self) -> Server:
        """The server, listening. ``OSError``: the port is taken, or the address is not ours."""
        from prometheus_client import CollectorRegistry, ProcessCollector

        from agent.app.scraping import listen

        registry = CollectorRegistry()
        registry.register(self)
        ProcessCollector(registry=registry)
        return listen(self._config.address, self._config.port, registry)
