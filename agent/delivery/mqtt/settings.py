"""From the configuration's ``mqtt`` section to what a connection needs.

Invariants: constructing checks what can be checked without a network, so that a mistake in the configuration is one
line at the start; a password is read anew for each connection (it may be rotated) and never shown.
"""

from __future__ import annotations

import hashlib
import os
import re
import ssl
from dataclasses import dataclass
from pathlib import Path

from agent.config import MqttConfig
from agent.errors import UsageError

_CLIENT_ID_LENGTH = 60


@dataclass(frozen=True)
class Settings:
    """Where the broker is and who we are there."""

    host: str
    port: int
    client_id: str
    keepalive_s: int
    tls: ssl.SSLContext | None = None
    username: str | None = None
    password_file: str | None = None
    password_env: str | None = None

    @property
    def address(self) -> str:
        """For people: ``host:port``."""
        return f"{self.host}:{self.port}"

    def password(self) -> str | None:
        """The password as it is now. ``UsageError`` when its file or variable is not there."""
        if self.password_env:
            if self.password_env not in os.environ:
                raise UsageError(f"mqtt.password_env: the environment has no {self.password_env}")
            return os.environ[self.password_env]
        if self.password_file:
            try:
                return Path(self.password_file).read_text(encoding="utf-8").rstrip("\r\n")
            except OSError as error:
                raise UsageError(f"mqtt.password_file: {self.password_file}: {error.strerror}") from None
            except UnicodeDecodeError:
                raise UsageError(f"mqtt.password_file: {self.password_file}: not UTF-8 text") from None
        return None


def settings_of(config: MqttConfig, topic: str) -> Settings:
    """What ``config`` says, with its defaults. ``UsageError`` for certificates or secrets that cannot be read."""
    settings = Settings(
        host=config.host or "127.0.0.1",
        port=config.port or (8883 if config.tls else 1883),
        client_id=config.client_id or client_id_for(topic),
        keepalive_s=config.keepalive_s,
        tls=_tls(config),
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


class _ClosedWhenRefused(ssl.SSLSocket):
    """paho forgets the socket of a handshake that failed; left to the garbage collector it would stay open a while."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def _tls(config: MqttConfig) -> ssl.SSLContext | None:
    if config.tls is None:
        return None
    tls = config.tls
    for key in ("ca", "cert", "key"):
        path = getattr(tls, key)
        if path is not None and not Path(path).is_file():
            raise UsageError(f"mqtt.tls.{key}: {path}: no such file; give a PEM file")
    key = "ca"
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.sslsocket_class = _ClosedWhenRefused
        key = "cert"
        if tls.cert:
            # Without a password callback OpenSSL would ask on the terminal, and a service would hang there.
            context.load_cert_chain(tls.cert, tls.key, password=lambda: b"")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        why = getattr(error, "reason", None) or error
        raise UsageError(f"mqtt.tls.{key}: {getattr(tls, key)}: not usable as PEM ({why})") from None
    return context
