"""The configuration: strict YAML, frozen sections, every mistake one line with file, key path, found and allowed.

Invariants: unknown and duplicate keys are errors; a secret is never in the file itself (a path or the name of an
environment variable instead); only ``station.name``, ``state``, ``sources`` and ``results.directory`` are required.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

from msgspec import Meta

from agent.config.bundle import BundleConfig, check_bundle
from agent.config.camera import CameraConfig, check_camera
from agent.config.folder import FolderConfig, check_archive, check_folder, within
from agent.config.metrics import MetricsConfig
from agent.config.mqtt import BrokerConfig, MqttConfig, check_mqtt
from agent.config.results import ResultsConfig
from agent.config.section import Section, TlsConfig, TopicLevel
from agent.config.sparkplug import SparkplugConfig, check_sparkplug
from agent.config.webhook import WebhookConfig, check_webhook
from agent.errors import ConfigError
from agent.strict_yaml import convert, load_yaml

__all__ = [
    "AgentConfig",
    "BrokerConfig",
    "BundleConfig",
    "CameraConfig",
    "FolderConfig",
    "MetricsConfig",
    "MqttConfig",
    "ResultsConfig",
    "SparkplugConfig",
    "StationConfig",
    "TlsConfig",
    "WebhookConfig",
    "find",
    "load",
    "parse",
]

LOOKED_FOR = ("/etc/weldwatch/agent.yaml", "config/agent.yaml")
ENVIRONMENT = "WELDWATCH_CONFIG"


class StationConfig(Section, frozen=True):
    """Where this camera stands. The names become topic levels."""

    name: TopicLevel
    enterprise: TopicLevel = "plant"
    site: TopicLevel = "site"
    area: TopicLevel = "area"
    line: TopicLevel = "line"
    timezone: str = "UTC"


class AgentConfig(Section, frozen=True):
    """The whole file."""

    station: StationConfig
    state: Annotated[str, Meta(min_length=1)]
    sources: Annotated[list[FolderConfig | CameraConfig], Meta(min_length=1)]
    results: ResultsConfig
    bundle: BundleConfig = BundleConfig()
    mqtt: MqttConfig | None = None
    sparkplug: SparkplugConfig | None = None
    webhook: WebhookConfig | None = None
    metrics: MetricsConfig | None = None

    @property
    def topic(self) -> str:
        """The base topic with the station's names put in (only meaningful with ``mqtt``)."""
        return self.named(self.mqtt.topic if self.mqtt else MqttConfig().topic)

    def named(self, template: str) -> str:
        """``template`` with the station's names put in; ``str.format`` raises what it does for a wrong one."""
        names = {field: getattr(self.station, field) for field in ("enterprise", "site", "area", "line")}
        return template.format(**names, station=self.station.name)

    @property
    def zone(self) -> ZoneInfo:
        """The station's time zone, for times that carry none."""
        return ZoneInfo(self.station.timezone)


def find(explicit: str | None, environment: Mapping[str, str] = os.environ) -> Path:
    """Where the configuration is: ``--config``, ``$WELDWATCH_CONFIG``, then the usual places."""
    for origin, value in (("--config", explicit), (f"${ENVIRONMENT}", environment.get(ENVIRONMENT))):
        if value:
            if _is_file(value):
                return Path(value)
            raise ConfigError(value, "", f"no such file (from {origin})", "give the path of a YAML configuration")
    for place in LOOKED_FOR:
        if _is_file(place):
            return Path(place)
    raise ConfigError(
        "no configuration",
        "",
        f"looked at --config, ${ENVIRONMENT}, {', '.join(LOOKED_FOR)}",
        "copy config/agent.example.yaml to one of them, or try `weldwatch demo`, which needs none",
    )


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except OSError as error:
        remedy = "call it as a user who may read it: one of the agent's group, or with sudo"
        raise ConfigError(path, "", error.strerror or str(error), remedy) from None


def load(path: Path) -> AgentConfig:
    """Read and check a configuration file. ``ConfigError`` names the first thing that is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(str(path), "", error.strerror or str(error), "make the file readable for the agent") from None
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), "", f"not UTF-8 at byte {error.start}", "save the file as UTF-8") from None
    return parse(text, str(path))


def parse(text: str, file: str = "configuration") -> AgentConfig:
    """Check the text of a configuration; ``file`` is only named in errors."""
    config = convert(load_yaml(text, file), AgentConfig, file)
    _check_across(config, file)
    return config


def _check_across(config: AgentConfig, file: str) -> None:
    """What one key alone cannot tell."""
    try:
        config.zone  # noqa: B018  # the look-up is the check
    except (KeyError, ValueError, OSError):
        raise ConfigError(
            file, "station.timezone", f"found {config.station.timezone!r}", "use an IANA name such as Europe/Berlin"
        ) from None
    names = [source.name for source in config.sources]
    for index, source in enumerate(config.sources):
        at = f"sources[{index}]"
        if source.name in names[:index]:
            raise ConfigError(
                file, f"{at}.name", f"{source.name!r} is taken by another source", "give each its own name"
            )
        if isinstance(source, CameraConfig):
            check_camera(source, file, at)
        else:
            check_folder(source, file, at)
    check_bundle(config.bundle, file)
    check_apart([source for source in config.sources if isinstance(source, FolderConfig)], config, file)
    if config.mqtt is not None:
        check_mqtt(config.mqtt, lambda: config.topic, file)
    if config.sparkplug is not None:
        check_sparkplug(config.sparkplug, config.named, config.mqtt is not None, file)
    if config.webhook is not None:
        check_webhook(config.webhook, file)


def check_apart(folders: list[FolderConfig], config: AgentConfig, file: str) -> None:
    """No image may be met twice, and nothing that the agent writes may look like one that it should inspect."""
    for index, source in enumerate(folders):
        at = f"sources[{config.sources.index(source)}].path"
        for other in folders[:index]:
            if within(Path(source.path), Path(other.path)) or within(Path(other.path), Path(source.path)):
                rest = f"give each folder to one source: {other.name!r} watches it already"
                raise ConfigError(file, at, f"found {source.path!r}", rest)
        for key, path in (("state", config.state), ("results.directory", config.results.directory)):
            if within(Path(path), Path(source.path)):
                raise ConfigError(file, key, f"found {path!r}", f"must lie outside the watched folder {source.path!r}")
        check_archive(source, _folders_beside(source, config), file, f"sources[{config.sources.index(source)}]")


def _folders_beside(one: FolderConfig, config: AgentConfig) -> dict[str, str]:
    """Every folder with images or results but the archive of ``one``, by its key path."""
    folders = {"state": config.state, "results.directory": config.results.directory}
    for index, source in enumerate(config.sources):
        fields = ("save",) if isinstance(source, CameraConfig) else ("path", "archive", "rejected")
        for field in fields:
            if (folder := getattr(source, field)) is not None and (source is not one or field != "archive"):
                folders[f"sources[{index}].{field}"] = folder
    return folders
