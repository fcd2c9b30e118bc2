"""The ``mqtt`` section: the broker, how to log in, what goes there, and which commands are obeyed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from msgspec import Meta

from agent.config.section import Port, Section, TlsConfig
from agent.errors import ConfigError

#: What a station can be told over MQTT, once it is listed in ``mqtt.commands``.
Command = Literal["job", "trigger", "replay", "bundle-install", "bundle-activate", "bundle-rollback"]


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
    commands: tuple[Command, ...] = ()  #: what is obeyed on ``…/command/<name>``; the rest is refused
    embedded: bool = False


def check_mqtt(mqtt: MqttConfig, topic_of: Callable[[], str], file: str) -> None:
    """What one key alone cannot tell; ``topic_of`` puts the station's names into the topic."""
    if mqtt.embedded and (mqtt.host or mqtt.tls or mqtt.username):
        raise ConfigError(file, "mqtt.embedded", "found together with host, tls or username", "use one or the other")
    if not mqtt.embedded and not mqtt.host:
        raise ConfigError(file, "mqtt.host", "missing", "name the broker, or set embedded: true for a demonstration")
    if mqtt.password_file and mqtt.password_env:
        raise ConfigError(file, "mqtt.password_env", "found together with password_file", "use one or the other")
    if mqtt.tls and bool(mqtt.tls.cert) != bool(mqtt.tls.key):
        raise ConfigError(file, "mqtt.tls", "cert and key go together", "give both or none")
    try:
        topic = topic_of()
    except (KeyError, IndexError, ValueError, AttributeError, TypeError):
        allowed = "allowed in braces: enterprise, site, area, line, station"
        raise ConfigError(file, "mqtt.topic", f"found {mqtt.topic!r}", allowed) from None
    if not topic or any(c in topic for c in "+#\0") or topic.startswith(("$", "/")) or topic.endswith("/"):
        raise ConfigError(file, "mqtt.topic", f"found {topic!r}", "a topic without '+', '#', and '/' at either end")
