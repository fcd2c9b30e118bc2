"""The ``metrics`` section: counters and gauges where Prometheus can fetch them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from agent.config.section import Port, Section


class MetricsConfig(Section, frozen=True):
    """Where to listen. Nobody needs a password there: only this machine, unless ``address`` says otherwise."""

    address: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    port: Port = 9464
