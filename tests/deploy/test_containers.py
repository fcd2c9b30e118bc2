"""Dockerfiles and the compose file: no container engine runs here, so they are linted, what they name exists, and the
steps of the Dockerfile are carried out, one by one, in a bare Debian of the same release.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent import config
from tests.deploy.machine import CHECKOUT, Machine, run
from tests.support.bundles import flat_png

DEPLOY = CHECKOUT / "deploy"
DOCKERFILES = sorted((DEPLOY / "docker").glob("Dockerfile*"))
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
BIN = Path(sys.prefix) / "bin"


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_dockerfiles_are_linted(file: Path) -> None:
    run(str(BIN / "hadolint"), str(file))


def test_scripts_are_linted() -> None:
    scripts = sorted(DEPLOY.glob("*.sh"))
    assert len(scripts) >= 4
    run("shellcheck", "--external-sources", *map(str, scripts))
    for script in sorted((DEPLOY / "debian").iterdir()):
        whole = "#!/bin/sh\nset -e\n" + (DEPLOY / "station.sh").read_text() + script.read_text()
        subprocess.run(["shellcheck", "-"], input=whole, text=True, check=True, timeout=60)


def test_the_compose_file_meets_its_schema() -> None:
    run(str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(DEPLOY / "compose.yaml"))


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_service_is_pinned_restarts_and_is_open_to_this_machine_only(name: str) -> None:
    service = COMPOSE["services"][name]
    assert re.fullmatch(r"[a-z/-]+:v?\d+\.\d+\.\d+", service["image"])
    assert service["restart"] == "unless-stopped"
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    for volume in service["volumes"]:
        source = volume.split(":")[0]
        assert (DEPLOY / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]


def test_the_services_of_the_compose_file_know_each_other() -> None:
    services = COMPOSE["services"].keys()
    station = config.load(DEPLOY / "docker" / "agent.yaml")
    assert station.mqtt is not None
    assert station.mqtt.host in services
    assert station.metrics is not None
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"][0]
    assert scraped["static_configs"][0]["targets"] == [f"agent:{station.metrics.port}"]
    (source,) = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (boards,) = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/weldwatch.yml").read_text())["providers"]
    assert any(f":{boards['options']['path']}/" in volume for volume in COMPOSE["services"]["grafana"]["volumes"])
    built = COMPOSE["services"]["agent"]["build"]
    assert (DEPLOY / built["context"] / built["dockerfile"]).resolve() == DEPLOY / "docker" / "Dockerfile"


def instructions(file: Path) -> list[tuple[str, str]]:
    """Instruction and argument, in order, lines joined."""
    lines = (line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    joined = "\n".join(lines).replace("\\\n", " ")
    found = [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined.splitlines() if line.strip()]
    assert {name for name, _ in found} <= {
        "ARG", "FROM", "COPY", "RUN", "ENV", "USER", "WORKDIR", "VOLUME", "ENTRYPOINT", "CMD",
    }  # fmt: skip
    return found


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(900)  # it may be the first, which makes the bare system
def test_the_steps_of_the_dockerfile_lead_to_a_station(debian: Path, kit: Path, tmp_path: Path) -> None:
    machine = Machine(tmp_path / "root", debian)  # not booted: a container has no systemd
    root = machine.root
    options = ["--quiet", "--register=no", "--keep-unit", "--private-network", "--console=pipe", f"--directory={root}"]
    said: dict[str, str] = {}
    for name, argument in instructions(DEPLOY / "docker" / "Dockerfile"):
        said[name] = argument
        if name == "FROM":
            assert argument.startswith("python:${PYTHON}-slim-bookworm"), "the release of the machine"
        elif name == "COPY" and not argument.startswith("--from=build"):  # one folder serves for both stages
            source, target = argument.split()
            copy = shutil.copytree if source == "." else shutil.copy
            (root / target.strip("/")).parent.mkdir(parents=True, exist_ok=True)
            copy(kit / source, root / target.strip("/"))
        elif name == "RUN":
            run("systemd-nspawn", *options, "sh", "-euc", argument)
    assert said["ARG"] == "PYTHON=3.11"
    command = [*yaml.safe_load(said["ENTRYPOINT"]), *yaml.safe_load(said["CMD"])]
    user, group = said["USER"].split(":")
    (root / "var/lib/weldwatch/captures/a.png").write_bytes(flat_png(30))
    as_user = f"exec setpriv --reuid={user} --regid={group} --clear-groups {shlex.join(command)} --once"
    environment = said["ENV"].replace("$PATH", "/usr/bin:/bin")
    run("systemd-nspawn", *options, "sh", "-euc", f"export {environment}; cd {said['WORKDIR']}; {as_user}")
    (result,) = machine.results()
    assert result["image"]["name"] == "a.png"
    assert (root / "var/lib/weldwatch/ledger.sqlite3").stat().st_uid == int(user)
