"""What belongs to the network: far ends, certificates and how long they hold, the port for metrics."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from agent.cli.check.finding import Finding

if TYPE_CHECKING:
    from agent.config import AgentConfig, TlsConfig

DAYS_BEFORE = 30  #: a certificate that ends sooner is warned of
_TIMEOUT_S = 5.0
_METRICS_AT_MOST = 1 << 20  #: bytes of an answer that are looked at
_KEPT = "results are kept until it is right; what names a file that is missing stops the start"


def mqtt(config: AgentConfig) -> Iterator[Finding]:
    """Every broker, under a client id of our own."""
    if config.mqtt is None:
        yield Finding("mqtt", "ok", "not configured; results stay on disk")
        return
    if config.mqtt.embedded:
        yield Finding("mqtt", "warning", "embedded broker", "for demonstrations only: it keeps nothing on disk")
        return
    from agent.delivery.mqtt import probe

    for broker in config.mqtt.each():
        trouble = probe(broker, config.topic)
        told = f"{broker.host} lets this station connect; publishing to {config.topic} is not tried"
        yield Finding("mqtt", "failed", trouble, _KEPT) if trouble else Finding("mqtt", "ok", told)


def sparkplug(config: AgentConfig) -> Iterator[Finding]:
    """The brokers that the edge node is born at."""
    if config.sparkplug is None:
        return
    from agent.delivery.sparkplug import probe

    trouble = probe(config)
    if trouble:
        yield Finding("sparkplug", "failed", trouble, _KEPT)
    else:
        yield Finding("sparkplug", "ok", "lets this edge node connect; a birth is not tried")


def webhook(config: AgentConfig) -> Iterator[Finding]:
    """Asked in a way that changes nothing."""
    if config.webhook is None:
        return
    from agent.delivery.webhook import probe

    trouble = probe(config.webhook)
    if trouble:
        yield Finding("webhook", "failed", trouble, _KEPT)
    else:
        yield Finding("webhook", "ok", f"{config.webhook.target.hostname} answers; a result is not posted")


def certificates(config: AgentConfig) -> Iterator[Finding]:
    """Until when our own and the far ends' hold."""
    for name, host, port, tls in _secured(config):
        if tls.cert is not None:
            yield _own(f"{name}.tls.cert", tls.cert)
        ends = _served(host, port, tls, name)
        if ends is not None:
            yield _until(f"certificate of {host}", ends, "tell who runs it")


def _secured(config: AgentConfig) -> Iterator[tuple[str, str, int, TlsConfig]]:
    """Section, host, port and TLS of each far end that is reached by TLS."""
    from agent.config import TlsConfig

    if config.mqtt is not None and not config.mqtt.embedded:
        for broker in config.mqtt.each():
            if broker.tls is not None and broker.host is not None:
                yield "mqtt", broker.host, broker.port or 8883, broker.tls
    if config.sparkplug is not None and (own := config.sparkplug.broker) is not None and own.tls is not None:
        yield "sparkplug.broker", own.host, own.port or 8883, own.tls
    if config.webhook is not None and config.webhook.target.scheme == "https":
        target = config.webhook.target
        yield "webhook", target.hostname or "", target.port or 443, config.webhook.tls or TlsConfig()


def _own(name: str, path: str) -> Finding:
    from cryptography import x509

    from agent.credentials import secret_path
    from agent.errors import UsageError

    try:
        certificate = x509.load_pem_x509_certificate(secret_path(path, name).read_bytes())
    except (OSError, ValueError, UsageError) as error:
        return Finding(name, "failed", f"{path}: {error}", "give a PEM certificate that the agent's user may read")
    return _until(name, certificate.not_valid_after_utc, "have a new one made")


def _served(host: str, port: int, tls: TlsConfig, at: str) -> datetime | None:
    """When the certificate that is shown to us ends; None where there is no connection (told elsewhere)."""
    import socket
    import ssl

    from agent.delivery.access import tls_context
    from agent.errors import UsageError

    try:
        with (
            socket.create_connection((host, port), _TIMEOUT_S) as plain,
            tls_context(tls, at).wrap_socket(plain, server_hostname=host) as secured,
        ):
            shown = secured.getpeercert() or {}
    except (OSError, ValueError, UsageError):
        return None
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(shown["notAfter"])), timezone.utc)


def _until(name: str, ends: datetime, remedy: str) -> Finding:
    from agent.clock import SystemClock

    days = (ends - SystemClock().now()).total_seconds() / 86_400
    if days < 0:
        return Finding(name, "failed", f"ended on {ends:%Y-%m-%d}", remedy)
    if days < DAYS_BEFORE:
        return Finding(name, "warning", f"ends on {ends:%Y-%m-%d}, in {days:.0f} days", remedy)
    return Finding(name, "ok", f"holds until {ends:%Y-%m-%d}")


def metrics(config: AgentConfig) -> Iterator[Finding]:
    """The port is free, or our own agent has it."""
    if config.metrics is None:
        return
    import socket

    address, port = config.metrics.address, config.metrics.port
    where = f"{address}:{port}"
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
        yield Finding("metrics", "ok", f"{where} is free")
    except OSError as error:
        if _is_an_agents(address, port):
            yield Finding("metrics", "ok", f"a running agent serves them on {where}")
        else:
            yield Finding("metrics", "failed", f"{where}: {error.strerror}", "give this agent its own metrics.port")


def _is_an_agents(address: str, port: int) -> bool:
    """Whether it is an agent that answers there; whoever else does may speak any protocol."""
    from http.client import HTTPConnection, HTTPException

    asked = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104  # compared, not bound
    there = HTTPConnection(asked, port, timeout=_TIMEOUT_S)
    try:
        there.request("GET", "/metrics")
        return b"weldwatch_inspecting" in there.getresponse().read(_METRICS_AT_MOST)
    except (OSError, HTTPException):
        return False
    finally:
        there.close()
