"""A bare Debian with its own systemd, in a folder: what an integrator's PC is before weldwatch comes to it.

    .cache/debian-<suite>.tar (bare.py) ─unpack─▶ folder ─systemd-nspawn─▶ a machine that runs

Invariants: it has no network but its own loopback, so whatever installs there installs offline; commands enter it by
its first process, as root. Needs root here, too.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from tests.support.bundles import flat_png
from tests.support.station import until

CHECKOUT = Path(__file__).parents[2]
VAR = "var/lib/weldwatch"


def run(*command: str) -> str:
    """Run to its end; what it said on stdout. What it said at all, when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


class Machine:
    """``with Machine(folder) as machine``: booted on entry, switched off on leaving."""

    def __init__(self, root: Path, debian: Path) -> None:
        self.root = root
        root.mkdir(parents=True)
        run("tar", "-C", str(root), "-xf", str(debian))
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def __enter__(self) -> Machine:
        command = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--private-network", "--console=pipe",
                   "--directory", str(self.root), "--boot"]  # fmt: skip
        with (self.root.parent / "console.log").open("wb") as console:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        self._leader = until(self._first_process, "the machine's first process")
        until(lambda: self.sh("systemctl is-system-running", check=False).stdout.strip() in ("running", "degraded"),
              "the machine to boot", 60)  # fmt: skip
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._process is not None
        try:
            self.sh("systemctl poweroff --force", check=False)
            self._process.wait(30)
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()

    def _first_process(self) -> int:
        assert self._process is not None
        assert self._process.poll() is None, (self.root.parent / "console.log").read_text(errors="replace")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for child in children:
            if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                return int(child)
        return 0

    def sh(self, script: str, *, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a script of the shell in the machine, as root and with a bare environment."""
        enter = ["nsenter", "--target", str(self._leader), "--all", "env", "-i", "HOME=/root", "LANG=C.UTF-8",
                 "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "sh", "-euc", script]  # fmt: skip
        done = subprocess.run(enter, capture_output=True, text=True, timeout=timeout, check=False)
        assert not check or done.returncode == 0, f"{script}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done

    def told(self, unit: str, *names: str) -> dict[str, str]:
        """Properties of a unit, as its systemd tells them."""
        shown = self.sh(f"systemctl show {unit} -p {','.join(names)}").stdout
        return dict(line.split("=", 1) for line in shown.splitlines())

    def wait_active(self, unit: str) -> None:
        """Until the unit has said READY=1."""
        until(lambda: self.sh(f"systemctl is-active {unit}", check=False).stdout.strip() == "active",
              f"{unit} to be active", 60)  # fmt: skip

    def results(self, folder: str = "var/lib/weldwatch/results") -> list[dict[str, Any]]:
        """The results in the machine's daily logs, in their order."""
        import json

        days = sorted((self.root / folder).glob("*.jsonl"))
        return [json.loads(line) for day in days for line in day.read_bytes().splitlines()]


def deliver(machine: Machine, name: str, level: int = 30) -> None:
    """As a camera's FTP user does, who is in the group weldwatch and nothing else."""
    machine.sh("id ftp-camera >/dev/null 2>&1 || useradd --groups weldwatch ftp-camera")
    (machine.root / "tmp").mkdir(exist_ok=True)
    (machine.root / "srv" / name).write_bytes(flat_png(level))
    machine.sh(f"setpriv --reuid=ftp-camera --regid=ftp-camera --init-groups cp /srv/{name} /{VAR}/captures/{name}")


def cut_off(machine: Machine, script: str) -> None:
    """Run a script of /root that is killed after the switch, when it calls ``systemctl daemon-reload``."""
    machine.sh("mkdir -p /root/cut; printf '#!/bin/sh\\n[ $1 != daemon-reload ] || { kill -9 $PPID; exit; }\\n"
               "exec /bin/systemctl \"$@\"\\n' > /root/cut/systemctl; chmod +x /root/cut/systemctl")  # fmt: skip
    done = machine.sh(f"PATH=/root/cut:$PATH; /root/{script} || echo ended with $?")
    assert done.stdout.endswith("ended with 137\n"), done.stdout + done.stderr


def names(machine: Machine, folder: str = f"{VAR}/results") -> list[str]:
    """Of the images that have a result, in the order of these."""
    return [line["image"]["name"] for line in machine.results(folder)]


def wait_for(machine: Machine, name: str, folder: str = f"{VAR}/results") -> None:
    """Until the image has its result."""
    until(lambda: name in names(machine, folder), f"the result of {name}")
