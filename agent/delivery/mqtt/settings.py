"""From the configuration's ``mqtt`` section to what a connection needs.

Invariants: constructing checks what can be checked without a network, so that a mistake in the configuration is one
line at the start; a password is read anew for each connection (it may be rotated) and never shown.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from agent.config import MqttConfig
from agent.config.mqtt import Protocol
from agent.delivery.access import Tls, secret
from agent.health import Health

_CLIENT_ID_LENGTH = 60


@dataclass(frozen=True)
class Settings:
    """Where the broker is and who we are there."""

    host: str
    port: int
    client_id: str
    keepalive_s: int
    protocol: Protocol = 5
    tls: Tls | None = None
    username: str | None = None
    password_file: str | None = None
    password_env: str | None = None
    section: str = "mqtt"  #: of the configuration, for what people are told to check

    @property
    def address(self) -> str:
        """For people: ``host:port``."""
        return f"{self.host}:{self.port}"

    def password(self) -> str | None:
        """The password as it is now. ``UsageError`` when its file or variable is not there."""
        return secret(self.password_file, self.password_env, self.section)


def settings_of(config: MqttConfig, topic: str, health: Health | None = None) -> Settings:
    """What ``config`` says, with its defaults. ``UsageError`` for certificates or secrets that cannot be read.

    ``health`` is told where certificates cannot be renewed.
    """
    settings = Settings(
        host=config.host or "127.0.0.1",
        port=config.port or (8883 if config.tls else 1883),
        client_id=config.client_id or client_id_for(topic),
        keepalive_s=config.keepalive_s,
        protocol=config.protocol,
        tls=Tls(config.tls, "mqtt", health) if config.tls else None,
        username=config.username,
        password_file=config.password_file,
        password_env=config.password_env,
    )
    settings.password()
    return settings


def client_id_for(topic: str) -> str:
    """A name that stays the same for a topic, is readable, and differs where long topics look alike."""
    digest = hashlib.sha256(topic.encode()).hexdigest()[:8]
    readable = re.sub(r"[^0-9A-Za-z_.-]+", "-", topic).strip("-")
    return f"{readable[-(_CLIENT_ID_LENGTH - 9) :].lstrip('-')}-{digest}"
