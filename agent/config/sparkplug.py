"""The ``sparkplug`` section: who the station is in a plant that speaks Sparkplug B, and which broker it speaks to."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated

from msgspec import Meta

from agent.config.mqtt import BrokerConfig, Protocol, check_access
from agent.config.section import Section, TopicLevel
from agent.errors import ConfigError

_LEVEL = re.compile(r"[^/+#\x00-\x1f\x7f\ud800-\udfff]{1,200}\Z")


class SparkplugConfig(Section, frozen=True):
    """The station as a device of an edge node of its own."""

    broker: BrokerConfig | None = None  #: None: the broker of ``mqtt``, or its brokers in turn
    protocol: Protocol | None = None  #: None: as ``mqtt.protocol``, 5 without ``mqtt``
    client_id: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    keepalive_s: Annotated[int, Meta(ge=2, le=3600)] = 15
    group: str = "{enterprise}-{site}"
    node: str = "{area}-{line}-{station}"
    device: str = "{station}"
    primary_host: TopicLevel | None = None  #: results wait while this host application is not online
    overlap_s: Annotated[float, Meta(ge=0, le=3600)] = 60.0  #: what was sent so lately is sent again after a birth


def check_sparkplug(sparkplug: SparkplugConfig, named: Callable[[str], str], has_mqtt: bool, file: str) -> None:
    """What one key alone cannot tell; ``named`` puts the station's names into a template."""
    if sparkplug.broker is None and not has_mqtt:
        raise ConfigError(
            file, "sparkplug.broker", "missing", "name the broker, or configure mqtt, whose broker is used"
        )
    if sparkplug.broker is not None:
        check_access(sparkplug.broker, "sparkplug.broker", file)
    for key in ("group", "node", "device"):
        template = getattr(sparkplug, key)
        try:
            name = named(template)
        except (KeyError, IndexError, ValueError, AttributeError, TypeError):
            allowed = "allowed in braces: enterprise, site, area, line, station"
            raise ConfigError(file, f"sparkplug.{key}", f"found {template!r}", allowed) from None
        if not _LEVEL.match(name):
            rest = "one level of a topic: 1 to 200 characters without '/', '+', '#'"
            raise ConfigError(file, f"sparkplug.{key}", f"found {name!r}", rest)
