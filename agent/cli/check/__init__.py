"""``weldwatch check``: the doctor. Tries everything that a configuration names, and says what to do about the rest.

station  bundle, folders, ledger, cameras
archives whether anybody empties them
arrival  how images come: network mounts, inotify
machine  disk, its endurance, clock, watchdog
sandbox  what the service's unit keeps from it
network  broker, Sparkplug, webhook, certificates, metrics

Invariants: changes nothing, may run beside the agent, and tries as the user that the agent runs as.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from agent.usage import examples

if TYPE_CHECKING:
    from agent.cli.check.finding import Finding
    from agent.config import AgentConfig

_EPILOG = examples(
    "weldwatch check --config agent.yaml",
    "weldwatch check --config agent.yaml --json",
    then="do what the findings say, then weldwatch run --config agent.yaml.",
)


def add_to(commands: Any) -> None:
    """Describe the command."""
    command: argparse.ArgumentParser = commands.add_parser(
        "check",
        help="validate the configuration and try everything it names",
        description="Validate the configuration and try everything it names: bundle with its self-test, folders, "
        "cameras, disks, clock, broker, certificates, ports. Changes nothing; the agent may run. Started by root it "
        "tries as the user who owns the state folder. Exit code 1 if something failed, 2 if the configuration itself "
        "is wrong; warnings are no failure.",
        epilog=_EPILOG,
    )
    command.add_argument("--config", metavar="FILE", help="default: as for run")
    command.add_argument("--json", action="store_true", help="findings as one JSON object")
    command.set_defaults(work=work)


def work(options: argparse.Namespace) -> int:
    """Run all checks, show each as it is done."""
    from dataclasses import asdict

    from agent import config
    from agent.cli.check.finding import show

    path = config.find(options.config)
    settings = config.load(path)
    findings = []
    for finding in examine(settings, str(path)):
        findings.append(finding)
        if not options.json:
            show(finding)
    failed = any(finding.state == "failed" for finding in findings)
    if options.json:
        print(json.dumps({"ok": not failed, "findings": [asdict(finding) for finding in findings]}))
    return 1 if failed else 0


def examine(settings: AgentConfig, path: str) -> Iterator[Finding]:
    """Every finding, as it is made. ``UsageError``: the state folder is a newer weldwatch's."""
    import os
    from functools import partial
    from pathlib import Path

    from agent.app.places import enter_state
    from agent.cli import service
    from agent.cli.check import archives, arrival, machine, network, sandbox, station
    from agent.cli.check.finding import Finding

    yield Finding("configuration", "ok", f"{path} is valid")
    before, unit = os.geteuid(), service.unit_of(Path(path))
    service.lend_credentials(unit)
    enter_state(Path(settings.state))
    yield station.user(before, path)
    for trial in (
        station.bundle,
        station.folders,
        station.ledger,
        station.cameras,
        archives.archives,
        arrival.arrival,
        partial(sandbox.sandbox, unit=unit, file=path),
        machine.disk,
        machine.endurance,
        machine.clock,
        network.mqtt,
        network.sparkplug,
        network.webhook,
        network.certificates,
        network.metrics,
    ):
        yield from trial(settings)
    yield from machine.watchdog(unit)
