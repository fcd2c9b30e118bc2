"""The Debian package: built offline on the release it is for, installed, upgraded, removed and purged by dpkg."""

from __future__ import annotations

import shutil

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


def test_a_packages_life(machine: Machine) -> None:
    shutil.copytree(CHECKOUT / "deploy", machine.root / "root" / "deploy")
    for kit in ("kit", "next"):
        machine.sh(f"/root/deploy/build-deb.sh --wheels /root/{kit} /root/packages", timeout=280)
    old, new = (
        f"/root/packages/weldwatch_{version}_$(dpkg --print-architecture).deb" for version in (__version__, NEXT)
    )

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
