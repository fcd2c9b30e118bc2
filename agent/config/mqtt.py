"""The ``mqtt`` section: the broker, how to log in, what goes there, and which commands are obeyed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from agent.config.section import Port, Section, TlsConfig
from agent.errors import ConfigError

#: What a station can be told over MQTT, once it is listed in ``mqtt.commands``.
Command = Literal["job", "trigger", "replay", "bundle-install", "bundle-activate", "bundle-rollback"]

#: The version of MQTT. With 3.1.1 a broker cannot say that it refuses a message.
Protocol = Literal[5, "3.1.1"]


class BrokerConfig(Section, frozen=True):
    """One of several brokers. What it leaves out (but for the port) is as in the section around it."""

    host: Annotated[str, Meta(min_length=1)]
    port: Port | None = None
    tls: TlsConfig | None = None
    username: str | None = None
    password_file: str | None = None
    password_env: str | None = None


class MqttConfig(Section, frozen=True):
    """The broker. ``embedded: true`` starts one on 127.0.0.1 inside the agent, for demonstrations."""

    host: str | None = None
    port: Port | None = None  #: default 8883 with TLS, 1883 without
    brokers: tuple[BrokerConfig, ...] = ()  #: instead of host and port: in order, the first that answers is used
    protocol: Protocol = 5
    client_id: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    tls: TlsConfig | None = None
    username: str | None = None
    password_file: str | None = None
    password_env: str | None = None
    topic: str = "weldwatch/{enterprise}/{site}/{area}/{line}/{station}"
    keepalive_s: Annotated[int, Meta(ge=2, le=3600)] = 15
    message_expiry_s: Annotated[int, Meta(ge=1)] | None = None
    live: bool = False  #: each fresh result also at once on ``…/live``
    commands: tuple[Command, ...] = ()  #: what is obeyed on ``…/command/<name>``; the rest is refused
    embedded: bool = False

    def each(self) -> tuple[MqttConfig, ...]:
        """One section for each broker, in order, with ``host`` and ``port`` set."""
        return tuple(_with(self, broker) for broker in self.brokers) or (self,)


def _with(mqtt: MqttConfig, broker: BrokerConfig) -> MqttConfig:
    own = {key: value for key in ("host", "port", "tls") if (value := getattr(broker, key)) is not None}
    if broker.username or broker.password_file or broker.password_env:  # who logs in otherwise, does so wholly
        own |= {key: getattr(broker, key) for key in ("username", "password_file", "password_env")}
    return msgspec.structs.replace(mqtt, brokers=(), **own)


def check_mqtt(mqtt: MqttConfig, topic_of: Callable[[], str], file: str) -> None:
    """What one key alone cannot tell; ``topic_of`` puts the station's names into the topic."""
    if mqtt.embedded and (mqtt.host or mqtt.brokers or mqtt.tls or mqtt.username):
        raise ConfigError(
            file, "mqtt.embedded", "found together with host, brokers, tls or username", "use one or the other"
        )
    if mqtt.brokers and (mqtt.host or mqtt.port):
        raise ConfigError(file, "mqtt.brokers", "found together with host or port", "use one or the other")
    if not mqtt.embedded and not mqtt.host and not mqtt.brokers:
        raise ConfigError(file, "mqtt.host", "missing", "name the broker, or set embedded: true for a demonstration")
    check_access(mqtt, "mqtt", file)
    for index, broker in enumerate(mqtt.brokers):
        check_access(broker, f"mqtt.brokers[{index}]", file)
    try:
        topic = topic_of()
    except (KeyError, IndexError, ValueError, AttributeError, TypeError):
        allowed = "allowed in braces: enterprise, site, area, line, station"
        raise ConfigError(file, "mqtt.topic", f"found {mqtt.topic!r}", allowed) from None
    if not topic or any(c in topic for c in "+#\0") or topic.startswith(("$", "/")) or topic.endswith("/"):
        raise ConfigError(file, "mqtt.topic", f"found {topic!r}", "a topic without '+', '#', and '/' at either end")


def check_access(one: MqttConfig | BrokerConfig, at: str, file: str) -> None:
    """How to get in: what one key alone cannot tell."""
    if one.password_file and one.password_env:
        raise ConfigError(file, f"{at}.password_env", "found together with password_file", "use one or the other")
    if one.tls and bool(one.tls.cert) != bool(one.tls.key):
        raise ConfigError(file, f"{at}.tls", "cert and key go together", "give both or none")
