"""What belongs to the network: far ends, certificates and how long they hold, the port for metrics."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from agent.cli.check.finding import Finding

if TYPE_CHECKING:
    from pathlib import Path

    from agent.config import AgentConfig

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
    """Until when our own, those of the authorities and the far ends' hold."""
    from agent.clock import SystemClock
    from agent.delivery import certificates as known
    from agent.errors import UsageError

    for key, path in known.files(config).items():
        try:
            ends = known.of_file(path, key, SystemClock().now()).ends
        except UsageError as error:
            yield Finding(key, "failed", str(error), "give a PEM certificate that the agent's user may read")
            continue
        yield _until(key, ends, "have a new one made" if key.endswith("cert") else "ask for the authority's new one")
    for one in known.far_ends(config):
        shown = known.served(one)
        if shown is not None:
            yield _until(f"certificate of {one.host}", shown.ends, "tell who runs it")


def _until(name: str, ends: datetime, remedy: str) -> Finding:
    from agent.clock import SystemClock

    days = (ends - SystemClock().now()).total_seconds() / 86_400
    if days < 0:
        return Finding(name, "failed", f"ended on {ends:%Y-%m-%d}", remedy)
    if days < DAYS_BEFORE:
        return Finding(name, "warning", f"ends on {ends:%Y-%m-%d}, in {days:.0f} days", remedy)
    return Finding(name, "ok", f"holds until {ends:%Y-%m-%d}")


def metrics(config: AgentConfig) -> Iterator[Finding]:
    """The port is free, or the agent has it that holds this state folder; another station's keeps ours out."""
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
        ours = _is_an_agents(address, port) and _is_ours(config.state, port)
        if ours:
            yield Finding("metrics", "ok", f"a running agent serves them on {where}")
        elif ours is None:
            detail = f"an agent serves them on {where}; whether this station's cannot be told"
            yield Finding("metrics", "warning", detail, "check again as the agent's user, or with sudo")
        else:
            yield Finding("metrics", "failed", f"{where}: {error.strerror}", "give this agent its own metrics.port")


def _is_ours(state: str, port: int) -> bool | None:
    """Whether who holds the state folder listens on the port; None where the kernel does not let us see."""
    import re
    from pathlib import Path

    try:
        holder = re.match(r"pid (\d+),", (Path(state) / "agent.lock").read_text(encoding="utf-8", errors="replace"))
        if holder is None:
            return False
        files = Path("/proc", holder[1], "fd")
        sockets = {f"socket:[{inode}]" for inode in _listening(port)}
        return any(_leads_to(file) in sockets for file in files.iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:
        return None


def _leads_to(file: Path) -> str:
    try:
        return str(file.readlink())
    except FileNotFoundError:  # closed meanwhile
        return ""


def _listening(port: int) -> Iterator[str]:
    """Inodes of the sockets that listen there: columns of proc(5), /proc/net/tcp."""
    from pathlib import Path

    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        if not table.exists():  # a kernel without IPv6
            continue
        for line in table.read_text(encoding="ascii").splitlines()[1:]:
            words = line.split()
            if words[1].endswith(f":{port:04X}") and words[3] == "0A":
                yield words[9]


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
