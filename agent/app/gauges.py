"""What ``…/health`` says: its fields, what each means, and the metric that it becomes.

The one table: the payload, Prometheus' gauges and ``config/schemas/health.schema.json`` are all made from this type.
Fields are only ever added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

from msgspec import Meta, Struct

Count = Annotated[int, Meta(ge=0)]
Moment = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]


@dataclass(frozen=True)
class Gauge:
    """The metric that a field becomes; ``scale`` brings it to Prometheus' base unit."""

    metric: str
    label: str | None = None  #: of each key, where the value is an object
    scale: float = 1.0


def _told(description: str, gauge: Gauge | None = None) -> Meta:
    return Meta(description=description, extra={"gauge": gauge})


class Quantiles(Struct, frozen=True, kw_only=True):
    """Null until there was an image."""

    p50: float | None
    p99: float | None


class HealthReport(Struct, frozen=True, kw_only=True):
    """One message on ``…/health``. A field without a gauge is a metric of another kind, or Prometheus has its own."""

    time: Annotated[Moment, _told("When it was measured.")]
    counters: Annotated[dict[str, Count], _told("Since the agent started; a counter that never counted is missing.")]
    backlog: Annotated[Count, _told("Decoded and waiting for the model.", Gauge("backlog_images"))]
    ledger_depth: Annotated[
        dict[str, Count],
        _told("In the ledger and not taken by the sink yet.", Gauge("undelivered_results", "sink")),
    ]
    oldest_undelivered: Annotated[
        dict[str, Moment | None],
        _told("When the oldest of these was made.", Gauge("oldest_undelivered_timestamp_seconds", "sink")),
    ]
    inference_ms: Annotated[Quantiles, _told("Milliseconds, over the newest 1000 images.")]
    not_decidable: Annotated[dict[str, Count], _told("Results NotDecidable, by the code of their first reason.")]
    disk_free_mb: Annotated[
        Count | None, _told("Free where the results are.", Gauge("results_free_bytes", scale=1 << 20))
    ]
    state_free_mb: Annotated[Count | None, _told("Free where the ledger is.", Gauge("state_free_bytes", scale=1 << 20))]
    certificates: Annotated[
        dict[str, Moment],
        _told(
            "When the certificate ends that this key of the configuration leads to.",
            Gauge("certificate_not_after_timestamp_seconds", "certificate"),
        ),
    ]
    clock_synchronized: Annotated[
        bool | None,
        _told(
            "1 while a time server keeps the clock right; none where that cannot be told.", Gauge("clock_synchronized")
        ),
    ]


def _table() -> dict[str, tuple[Gauge, str]]:
    found = {}
    hints: dict[str, Any] = get_type_hints(HealthReport, include_extras=True)
    for field, hint in hints.items():
        (told,) = [meta for meta in hint.__metadata__ if meta.description]
        if (gauge := told.extra["gauge"]) is not None:
            found[field] = gauge, told.description
    return found


#: Field of ``…/health`` → gauge, and its help.
GAUGES = _table()
