"""A folder of wheels as an integrator carries it to a station, and the machine that it comes to."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.bare import base
from tests.deploy.machine import CHECKOUT, Machine, run

NEXT = "0.1.1"  #: a release after this one, which exists only here


@pytest.fixture(scope="session")
def debian() -> Path:
    """The bare system. Where it cannot be had, the first test has waited for all of them: the others fail at once."""
    return base(CHECKOUT / ".cache")


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``deploy/make-wheels.sh`` makes for the machine's Python."""
    folder = tmp_path_factory.mktemp("wheels") / "kit"
    run(str(CHECKOUT / "deploy" / "make-wheels.sh"), "--python", "3.11", "--machine", "x86_64", str(folder))
    return folder


@pytest.fixture(scope="session")
def next_kit(kit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a later weldwatch in it."""
    work = tmp_path_factory.mktemp("next")
    for name in ("agent", "training"):
        shutil.copytree(CHECKOUT / name, work / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, work)
    for name in ("pyproject.toml", "agent/__init__.py"):
        text = (CHECKOUT / name).read_text(encoding="utf-8")
        (work / name).write_text(
            re.sub(r'(?m)^((?:__)?version(?:__)? = )".*"$', rf'\1"{NEXT}"', text), encoding="utf-8"
        )
    folder = work / "kit"
    shutil.copytree(kit, folder)
    (old,) = folder.glob("weldwatch-*.whl")
    old.unlink()
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "-w",
        str(folder), str(work))  # fmt: skip
    (new,) = folder.glob("weldwatch-*.whl")
    digest = subprocess.run(["sha256sum", new], capture_output=True, text=True, check=True).stdout.split()[0]
    wanted = re.sub(
        r"(?m)^weldwatch==.*$", f"weldwatch=={NEXT} --hash=sha256:{digest}", (folder / "requirements.txt").read_text()
    )
    (folder / "requirements.txt").write_text(wanted)
    return folder


@pytest.fixture(scope="module")
def machine(debian: Path, tmp_path_factory: pytest.TempPathFactory, kit: Path, next_kit: Path) -> Iterator[Machine]:
    """A bare Debian that runs, with both kits in /root. It has no network."""
    folder = tmp_path_factory.mktemp("machine")
    bare = Machine(folder / "root", debian)
    shutil.copytree(kit, bare.root / "root" / "kit")
    shutil.copytree(next_kit, bare.root / "root" / "next")
    with bare:
        yield bare
    shutil.rmtree(folder)


@pytest.fixture
def station(machine: Machine) -> Machine:
    """The machine with this weldwatch installed and its service running, whatever a test before has done."""
    machine.sh("/root/kit/install.sh; systemctl enable --now weldwatch")
    machine.wait_active("weldwatch")
    return machine
