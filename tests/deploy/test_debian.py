"""The Debian package: built offline on the release it is for, installed, upgraded, removed and purged by dpkg."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from agent import __version__
from tests.deploy.conftest import NEXT
from tests.deploy.machine import CHECKOUT, Machine
from tests.support.bundles import flat_png
from tests.support.station import until

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(900)]  # the first makes the bare system


def judged(machine: Machine, name: str) -> None:
    """The camera delivers a frame, and it gets its one result."""
    (machine.root / "srv" / name).write_bytes(flat_png(30))
    machine.sh(f"install -o weldwatch -m 0640 /srv/{name} /var/lib/weldwatch/captures/{name}")
    until(lambda: [line["image"]["name"] for line in machine.results()].count(name) == 1, f"the result of {name}")


@pytest.fixture(scope="module")
def packages(machine: Machine) -> tuple[str, str]:
    """This version and the next, built in the machine: where they are."""
    shutil.copytree(CHECKOUT / "deploy", machine.root / "root" / "deploy")
    for kit in ("kit", "next"):
        machine.sh(f"/root/deploy/build-deb.sh --wheels /root/{kit} /root/packages", timeout=280)
    architecture = machine.sh("dpkg --print-architecture").stdout.strip()
    old, new = (f"/root/packages/weldwatch_{version}_{architecture}.deb" for version in (__version__, NEXT))
    return old, new


@pytest.fixture
def installed(machine: Machine, packages: tuple[str, str]) -> Iterator[Machine]:
    """The machine with this version, running, and nothing of a test before."""
    machine.sh(f"dpkg --purge weldwatch; dpkg -i {packages[0]}")
    machine.wait_active("weldwatch")
    yield machine
    machine.sh("dpkg --purge weldwatch")


def state(machine: Machine, unit: str = "weldwatch") -> tuple[str, str]:
    told = machine.told(unit, "ActiveState", "UnitFileState")
    return told["UnitFileState"], told["ActiveState"]


def test_a_packages_life(machine: Machine, packages: tuple[str, str]) -> None:
    old, new = packages
    machine.sh(f"dpkg -i {old}")
    machine.wait_active("weldwatch")
    assert machine.told("weldwatch", "User", "UnitFileState") == {"User": "weldwatch", "UnitFileState": "enabled"}
    judged(machine, "a.png")
    assert machine.sh("dpkg --verify weldwatch").stdout == ""
    assert "apt" in machine.sh("/root/kit/install.sh", check=False).stderr

    with (machine.root / "etc/weldwatch/agent.yaml").open("a") as config:
        config.write("# mine\n")
    machine.sh(f"dpkg -i {new}")
    machine.wait_active("weldwatch")
    assert machine.sh("weldwatch --version").stdout == f"weldwatch {NEXT}\n"
    assert (machine.root / "etc/weldwatch/agent.yaml").read_text().endswith("# mine\n")
    assert not (machine.root / "opt/weldwatch" / __version__).exists()
    judged(machine, "b.png")

    machine.sh("systemctl disable --now weldwatch")
    machine.sh(f"dpkg -i {old}")  # going back; and what somebody has switched off stays off
    assert machine.told("weldwatch", "ActiveState", "UnitFileState") == {
        "ActiveState": "inactive", "UnitFileState": "disabled",
    }  # fmt: skip
    machine.sh("systemctl enable --now weldwatch")
    judged(machine, "c.png")
    assert len({line["ledger_id"] for line in machine.results()}) == 1

    machine.sh("dpkg --remove weldwatch")
    assert not (machine.root / "opt/weldwatch").exists()
    assert len(machine.results()) == 3
    assert (machine.root / "etc/weldwatch/agent.yaml").exists()
    machine.sh("dpkg --purge weldwatch")
    assert not (machine.root / "etc/weldwatch").exists()
    assert not (machine.root / "var/lib/weldwatch").exists()
    assert machine.sh("getent passwd weldwatch", check=False).returncode != 0


def test_removed_and_installed_again_it_is_as_it_was(installed: Machine, packages: tuple[str, str]) -> None:
    """Also a second station, and what somebody has stopped or switched off."""
    again = f"dpkg --remove weldwatch && systemctl daemon-reload && dpkg -i {packages[0]}"
    installed.sh(
        "sed -e 's/cam-07/cam-08/' -e 's#/var/lib/weldwatch#/var/lib/weldwatch/cam-08#' /etc/weldwatch/agent.yaml "
        "> /etc/weldwatch/cam-08.yaml && systemctl enable --now weldwatch@cam-08"
    )
    judged(installed, "a.png")
    installed.sh(again)
    assert state(installed) == state(installed, "weldwatch@cam-08") == ("enabled", "active")
    judged(installed, "b.png")
    assert len({line["ledger_id"] for line in installed.results()}) == 1
    installed.sh("systemctl stop weldwatch; systemctl disable weldwatch@cam-08")
    installed.sh(again)
    assert state(installed) == ("enabled", "inactive")
    assert state(installed, "weldwatch@cam-08") == ("disabled", "active")
    installed.sh("systemctl disable weldwatch; systemctl stop weldwatch@cam-08")
    installed.sh(f"{again} && dpkg -i {packages[1]}")
    assert state(installed) == state(installed, "weldwatch@cam-08") == ("disabled", "inactive")


def test_a_station_that_does_not_start_is_no_broken_package(installed: Machine, packages: tuple[str, str]) -> None:
    installed.sh("cp /etc/weldwatch/agent.yaml /root/good.yaml; echo 'nonsense: 1' >> /etc/weldwatch/agent.yaml")
    done = installed.sh(f"dpkg -i {packages[1]}", check=False)
    assert done.returncode == 0, done.stderr
    assert installed.sh("dpkg-query -W -f '${db:Status-Status}' weldwatch").stdout == "installed"
    assert "weldwatch.service does not start: " in done.stderr
    assert "nonsense" in done.stderr
    assert "see 'weldwatch check --config /etc/weldwatch/agent.yaml', then: systemctl restart weldwatch" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    installed.sh("cp /root/good.yaml /etc/weldwatch/agent.yaml; systemctl restart weldwatch")
    judged(installed, "repaired.png")
