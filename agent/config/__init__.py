"""The configuration: strict YAML, frozen sections, every mistake one line with file, key path, found and allowed.

Invariants: unknown and duplicate keys are errors; a secret is never in the file itself (a path or the name of an
environment variable instead); only ``station.name``, ``state``, ``sources`` and ``results.directory`` are required.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from msgspec import Meta

from agent.config.camera import CameraConfig, check_camera
from agent.config.folder import FolderConfig, check_folder, within
from agent.config.section import Port, Section, TopicLevel
from agent.errors import ConfigError
from agent.strict_yaml import convert, load_yaml

__all__ = [
    "AgentConfig",
    "BundleConfig",
    "CameraConfig",
    "FolderConfig",
    "MqttConfig",
    "ResultsConfig",
    "StationConfig",
    "TlsConfig",
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


class BundleConfig(Section, frozen=True):
    """Which bundle judges until the store has an active one, and on what device."""

    initial: Annotated[str, Meta(min_length=1)] = "weld-demo"
    device: Literal["auto", "cpu"] = "auto"
    trusted_keys: str | None = None  #: folder of public keys; with it, a bundle that none of them signed is refused
    budget_ms: Annotated[float, Meta(gt=0)] | None = None  #: slowest a frame may be judged in the self-test


class ResultsConfig(Section, frozen=True):
    """Results on disk."""

    directory: str
    per_image: bool = True
    daily_log: bool = True
    keep_days: Annotated[int, Meta(ge=1, le=36_500)] = 90
    min_free_mb: Annotated[int, Meta(ge=0)] = 500


class TlsConfig(Section, frozen=True):
    """Paths to PEM files. Without ``ca`` the system's own authorities are trusted."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None


class MqttConfig(Section, frozen=True):
    """The broker. ``embedded: true`` starts one on 127.0.0.1 inside the agent, for demonstrations."""

    host: str | None = None
    port: Port | None = None  #: default 8883 with TLS, 1883 without
    protocol: Literal[5] = 5
    client_id: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    tls: TlsConfig | None = None
    username: str | None = None
    password_file: str | None = None
    password_env: str | None = None
    topic: str = "weldwatch/{enterprise}/{site}/{area}/{line}/{station}"
    keepalive_s: Annotated[int, Meta(ge=2, le=3600)] = 15
    message_expiry_s: Annotated[int, Meta(ge=1)] | None = None
    commands: tuple[str, ...] = ()  #: none is built yet: anything but an empty list is refused
    embedded: bool = False


class AgentConfig(Section, frozen=True):
    """The whole file."""

    station: StationConfig
    state: Annotated[str, Meta(min_length=1)]
    sources: Annotated[list[FolderConfig | CameraConfig], Meta(min_length=1)]
    results: ResultsConfig
    bundle: BundleConfig = BundleConfig()
    mqtt: MqttConfig | None = None

    @property
    def topic(self) -> str:
        """The base topic with the station's names put in (only meaningful with ``mqtt``)."""
        template = self.mqtt.topic if self.mqtt else MqttConfig().topic
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
            if Path(value).is_file():
                return Path(value)
            raise ConfigError(value, "", f"no such file (from {origin})", "give the path of a YAML configuration")
    for place in LOOKED_FOR:
        if Path(place).is_file():
            return Path(place)
    raise ConfigError(
        "no configuration",
        "",
        f"looked at --config, ${ENVIRONMENT}, {', '.join(LOOKED_FOR)}",
        "copy config/agent.example.yaml to one of them, or try `weldwatch demo`, which needs none",
    )


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
    check_apart([source for source in config.sources if isinstance(source, FolderConfig)], config, file)
    if config.mqtt is not None:
        _check_mqtt(config, config.mqtt, file)


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


def _check_mqtt(config: AgentConfig, mqtt: MqttConfig, file: str) -> None:
    if mqtt.embedded and (mqtt.host or mqtt.tls or mqtt.username):
        raise ConfigError(file, "mqtt.embedded", "found together with host, tls or username", "use one or the other")
    if not mqtt.embedded and not mqtt.host:
        raise ConfigError(file, "mqtt.host", "missing", "name the broker, or set embedded: true for a demonstration")
    if mqtt.password_file and mqtt.password_env:
        raise ConfigError(file, "mqtt.password_env", "found together with password_file", "use one or the other")
    if mqtt.commands:
        raise ConfigError(file, "mqtt.commands", f"found {list(mqtt.commands)!r}", "this version obeys no command: []")
    if mqtt.tls and bool(mqtt.tls.cert) != bool(mqtt.tls.key):
        raise ConfigError(file, "mqtt.tls", "cert and key go together", "give both or none")
    try:
        topic = config.topic
    except (KeyError, IndexError, ValueError, AttributeError, TypeError):
        allowed = "allowed in braces: enterprise, site, area, line, station"
        raise ConfigError(file, "mqtt.topic", f"found {mqtt.topic!r}", allowed) from None
    if not topic or any(c in topic for c in "+#\0") or topic.startswith(("$", "/")) or topic.endswith("/"):
        raise ConfigError(file, "mqtt.topic", f"found {topic!r}", "a topic without '+', '#', and '/' at either end")
