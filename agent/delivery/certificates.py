"""Until when the certificates hold that deliveries rest on: our own, the authorities we trust, and the far ends'.

Invariants: only reads; a far end is asked by a handshake and nothing is said to it; each certificate goes by the key of
the configuration that leads to it (``mqtt.tls.cert``, ``mqtt.brokers[1].host``).
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from agent.config import AgentConfig, TlsConfig
from agent.credentials import secret_path
from agent.delivery.access import tls_context
from agent.errors import UsageError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

_TIMEOUT_S = 5.0
#: Of so many authorities in one file (a distribution's collection) one always ends soon: there the last one counts.
_COLLECTION = 10


@dataclass(frozen=True)
class Validity:
    """From when to when a certificate holds, aware, UTC."""

    begins: datetime
    ends: datetime


@dataclass(frozen=True)
class FarEnd:
    """Somebody who is reached by TLS. ``section`` says where its ``tls`` stands, ``key`` where its name does."""

    section: str
    key: str
    host: str
    port: int
    tls: TlsConfig


def far_ends(config: AgentConfig) -> Iterator[FarEnd]:
    """Everybody who is reached by TLS."""
    mqtt, sparkplug, webhook = config.mqtt, config.sparkplug, config.webhook
    if mqtt is not None and not mqtt.embedded:
        for index, broker in enumerate(mqtt.each()):
            at = f"mqtt.brokers[{index}]" if mqtt.brokers else "mqtt"
            own = at if mqtt.brokers and mqtt.brokers[index].tls is not None else "mqtt"
            if broker.tls is not None and broker.host is not None:
                yield FarEnd(own, f"{at}.host", broker.host, broker.port or 8883, broker.tls)
    if sparkplug is not None and (one := sparkplug.broker) is not None and one.tls is not None:
        yield FarEnd("sparkplug.broker", "sparkplug.broker.host", one.host, one.port or 8883, one.tls)
    if webhook is not None and webhook.target.scheme == "https":
        target = webhook.target
        yield FarEnd("webhook", "webhook.url", target.hostname or "", target.port or 443, webhook.tls or TlsConfig())


def files(config: AgentConfig) -> dict[str, str]:
    """Key to path of every file with certificates in it."""
    return {
        f"{one.section}.tls.{kind}": path
        for one in far_ends(config)
        for kind in ("cert", "ca")
        if (path := getattr(one.tls, kind)) is not None
    }


def of_file(path: str, key: str, now: datetime) -> Validity:
    """The first end that matters in a PEM file. ``UsageError``: it cannot be read as one.

    Of our own chain every certificate must hold. Of authorities those that have ended are of no use, nor in the way.
    """
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificates(secret_path(path, key).read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: {error}") from None
    if key.endswith(".ca"):
        holding = [one for one in found if one.not_valid_after_utc > now]
        if not holding or len(holding) > _COLLECTION:
            return _validity(max(found, key=_end))
        found = holding
    return _validity(min(found, key=_end))


def _end(certificate: Certificate) -> datetime:
    return certificate.not_valid_after_utc


def _validity(certificate: Certificate) -> Validity:
    return Validity(certificate.not_valid_before_utc, certificate.not_valid_after_utc)


def served(one: FarEnd) -> Validity | None:
    """Of the certificate that is shown to us; None where there is no connection, which is told elsewhere."""
    try:
        with (
            socket.create_connection((one.host, one.port), _TIMEOUT_S) as plain,
            tls_context(one.tls, one.section).wrap_socket(plain, server_hostname=one.host) as secured,
        ):
            shown = secured.getpeercert() or {}
    except (OSError, ValueError, UsageError):
        return None
    return Validity(_moment(shown["notBefore"]), _moment(shown["notAfter"]))


def _moment(text: object) -> datetime:
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(text)), timezone.utc)
