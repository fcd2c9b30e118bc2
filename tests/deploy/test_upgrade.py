"""What goes wrong with a station's program in the field, and that ``install.sh`` leaves or brings back one that runs.

A release that this station cannot run, or that does not start; services that somebody has switched off; an upgrade of
the system under it; a power cut; wheels that are not all there. On a bare Debian with its own systemd (``machine.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent import __version__
from tests.deploy.conftest import NEXT
from tests.deploy.machine import VAR, Machine, cut_off, deliver, wait_for
from tests.support.bundles import brightness_bundle

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(900)]  # the first makes the bare system


@contextmanager
def nothing_changes(machine: Machine) -> Iterator[None]:
    """Around what is refused: the same process of the same release goes on, with the same units."""
    looks = "readlink /opt/weldwatch/current; ls /opt/weldwatch; cat /etc/systemd/system/weldwatch*.service"
    before = machine.sh(looks).stdout, machine.told("weldwatch", "MainPID")
    yield
    assert (machine.sh(looks).stdout, machine.told("weldwatch", "MainPID")) == before
    assert machine.sh("weldwatch --version").stdout == f"weldwatch {__version__}\n"


def refused(machine: Machine, script: str) -> str:
    """The one line with which it ends."""
    done = machine.sh(script, check=False)
    assert done.returncode == 1, done.stdout
    (line,) = done.stderr.splitlines()
    return line


def state(machine: Machine, unit: str = "weldwatch") -> tuple[str, str]:
    told = machine.told(unit, "ActiveState", "UnitFileState")
    return told["UnitFileState"], told["ActiveState"]


def test_a_release_that_refuses_the_stations_configuration_is_not_switched_to(station: Machine) -> None:
    """Played the other way round: what the next one would refuse stands in the configuration already."""
    station.sh("cp /etc/weldwatch/agent.yaml /root/good.yaml; echo 'nonsense: 1' >> /etc/weldwatch/agent.yaml")
    try:
        with nothing_changes(station):
            line = refused(station, "/root/next/install.sh")
        assert "nonsense" in line
        assert "nothing was changed" in line
    finally:
        station.sh("cp /root/good.yaml /etc/weldwatch/agent.yaml")


def test_a_release_that_refuses_the_stations_bundle_is_not_switched_to(station: Machine, tmp_path: Path) -> None:
    brightness_bundle(tmp_path / "b.pipeline")
    (station.root / "root/b.pipeline").write_bytes((tmp_path / "b.pipeline").read_bytes())
    station.sh("weldwatch bundle install /root/b.pipeline && weldwatch bundle activate brightness-1.0.0")
    deliver(station, "brightness.png", 250)
    wait_for(station, "brightness.png")
    stored = f"/{VAR}/bundles/brightness-1.0.0.pipeline"
    try:
        station.sh(f"truncate -s 900 {stored}")
        with nothing_changes(station):
            line = refused(station, "/root/next/install.sh")
        assert "brightness-1.0.0" in line
    finally:
        station.sh(f"install -o weldwatch -g weldwatch -m 0640 /root/b.pipeline {stored} && weldwatch bundle rollback")


def test_a_release_that_does_not_start_is_gone_back_from(station: Machine) -> None:
    station.sh("rm -rf /root/dead && cp -r /root/next /root/dead && "
               "sed -i 's#^ExecStart=.*#ExecStart=/bin/false#' /root/dead/weldwatch.service")  # fmt: skip
    unit = station.sh("cat /etc/systemd/system/weldwatch.service").stdout
    line = refused(station, "/root/dead/install.sh")
    assert "does not start" in line
    assert f"{__version__}-" in line
    assert "in use again" in line
    assert station.sh("cat /etc/systemd/system/weldwatch.service").stdout == unit
    assert station.sh("weldwatch --version").stdout == f"weldwatch {__version__}\n"
    station.wait_active("weldwatch")
    deliver(station, "still-here.png")
    wait_for(station, "still-here.png")


def test_an_upgrade_that_is_cut_off_after_the_switch_is_finished_by_the_next_run(station: Machine) -> None:
    old = station.told("weldwatch", "MainPID")
    for interrupted, release in (("next/install.sh", NEXT), ("next/install.sh --rollback", __version__)):
        cut_off(station, interrupted)
        assert station.told("weldwatch", "MainPID") == old, "nothing was started yet"
        assert len(station.sh("ls -d /opt/weldwatch/0.1.*/").stdout.split()) >= 2
        station.sh(f"/root/{interrupted}")
        new = station.told("weldwatch", "MainPID")
        assert new != old
        running = station.sh(f"tr '\\0' ' ' < /proc/{new['MainPID']}/cmdline").stdout
        assert running.startswith(f"/opt/weldwatch/{release}-")
        assert not (station.root / "etc/weldwatch/.pending").exists()
        old = new
    cut_off(station, "next/install.sh")
    station.sh("/root/next/install.sh --rollback")
    assert station.told("weldwatch", "MainPID") != old
    assert station.sh("weldwatch --version").stdout == f"weldwatch {__version__}\n"
    station.wait_active("weldwatch")


def test_what_somebody_has_switched_off_stays_off_and_what_was_on_comes_back(station: Machine) -> None:
    station.sh(
        "sed -e 's/cam-07/cam-08/' -e 's#/var/lib/weldwatch#/var/lib/weldwatch/cam-08#' /etc/weldwatch/agent.yaml "
        "> /etc/weldwatch/cam-08.yaml && systemctl enable --now weldwatch@cam-08 && systemctl disable --now weldwatch"
    )
    try:
        for upgrade in ("/root/next/install.sh", "/root/kit/install.sh --rollback", "/root/kit/install.sh"):
            station.sh(upgrade)
            assert state(station) == ("disabled", "inactive"), upgrade
            assert state(station, "weldwatch@cam-08") == ("enabled", "active"), upgrade
        station.sh("echo weldwatch@cam-08.service > /etc/weldwatch/.stopped")  # of an installation long ago
        station.sh("systemctl stop weldwatch@cam-08; systemctl start weldwatch")
        for upgrade in ("/root/next/install.sh", "/root/kit/install.sh --uninstall && /root/kit/install.sh"):
            station.sh(upgrade)
            assert state(station) == ("disabled", "active"), upgrade
            assert state(station, "weldwatch@cam-08") == ("enabled", "inactive"), upgrade
    finally:
        station.sh("systemctl disable --now weldwatch@cam-08; systemctl enable --now weldwatch")


@pytest.mark.parametrize(
    "upgrade", ["rm /usr/local/bin/python-before", "ln -sf /bin/true /usr/local/bin/python-before"]
)
def test_a_python_that_an_upgrade_of_the_system_has_taken_away(station: Machine, upgrade: str) -> None:
    station.sh("ln -sf /usr/bin/python3.11 /usr/local/bin/python-before; "
               "/root/kit/install.sh --python /usr/local/bin/python-before")  # fmt: skip
    station.sh(upgrade)
    by_hand = station.sh("weldwatch --version", check=False)
    assert "run install.sh again" in by_hand.stderr
    assert len(by_hand.stderr.splitlines()) == 1
    station.sh("systemctl restart weldwatch", check=False)
    assert "run install.sh again" in station.sh("journalctl -u weldwatch -n 20 -o cat --no-pager").stdout
    deliver(station, f"waits-{upgrade[:2]}.png")
    station.sh("/root/kit/install.sh")
    station.wait_active("weldwatch")
    wait_for(station, f"waits-{upgrade[:2]}.png")
    with nothing_changes(station):
        assert "go back" in refused(station, "/root/kit/install.sh --rollback")


@pytest.mark.parametrize(
    "file",
    ["/opt/weldwatch/current/lib/python3.11/site-packages/agent/app/__init__.py", "/opt/weldwatch/current/complete",
     "/etc/systemd/system/weldwatch.service"],
)  # fmt: skip
def test_files_that_a_power_cut_has_emptied_are_made_anew(station: Machine, file: str) -> None:
    station.sh(f"test -s {file} && truncate -s 0 {file} && systemctl daemon-reload")
    station.sh("systemctl restart weldwatch", check=False)
    station.sh("/root/kit/install.sh")
    station.wait_active("weldwatch")
    assert station.sh(f"stat -c %s {file}").stdout != "0\n"
    name = Path(file).name + ".png"
    deliver(station, name)
    wait_for(station, name)


def test_it_is_on_the_disk_before_it_is_in_use(station: Machine) -> None:
    """Each step that a power cut could come after: files, their digests, a sync, only then the link."""
    station.sh(
        'rm -rf /root/order; mkdir /root/order; for one in sync mv; do printf \'#!/bin/sh\\necho "%s $*" >> '
        '/root/order/log\\nexec /bin/%s "$@"\\n\' $one $one > /root/order/$one; chmod +x /root/order/$one; done'
    )
    station.sh("rm -rf /opt/weldwatch/0.1.1*; PATH=/root/order:$PATH /root/next/install.sh")
    steps = [line.split()[0] + " " + Path(line.split()[-1]).name
             for line in (station.root / "root/order/log").read_text().splitlines()]  # fmt: skip
    assert steps == ["mv weldwatch.py", "sync sync", "mv complete", "sync sync", "mv .pending", "mv current",
                     "sync sync"]  # fmt: skip
    station.sh("/root/next/install.sh --rollback")


def test_what_a_process_still_runs_from_is_not_tidied_away(station: Machine) -> None:
    """Twice upgraded with ``--no-start``: what runs is neither in use nor the one before."""
    pid = station.told("weldwatch", "MainPID")["MainPID"]
    station.sh("rm -rf /root/other && cp -r /root/next /root/other && echo '# another' >> /root/other/requirements.txt")
    station.sh("/root/next/install.sh --no-start; /root/other/install.sh --no-start")
    python = station.sh(f"tr '\\0' '\\n' < /proc/{pid}/cmdline | head -n 1").stdout.strip()
    assert python.startswith(f"/opt/weldwatch/{__version__}-")
    station.sh(f"test -e {python}")
    station.sh("/root/kit/install.sh; systemctl restart weldwatch")


def test_a_command_that_could_not_be_written_is_noticed(station: Machine) -> None:
    """As on a disk that is full for just this file: ``cat`` has written nothing."""
    station.sh("mkdir -p /root/full; printf '#!/bin/sh\\n[ $# != 0 ] && exec /bin/cat \"$@\"\\nexit 1\\n' "
               "> /root/full/cat; chmod +x /root/full/cat; rm -rf /opt/weldwatch/0.1.1*")  # fmt: skip
    with nothing_changes(station):
        assert "nothing was changed" in refused(station, "PATH=/root/full:$PATH; /root/next/install.sh")


def test_a_wheel_that_is_missing_is_one_line(station: Machine) -> None:
    station.sh("rm -rf /root/less && cp -r /root/next /root/less && rm /root/less/msgspec-*.whl")
    with nothing_changes(station):
        assert "msgspec==" in refused(station, "/root/less/install.sh")


def test_an_environment_made_by_hand_is_one_line_and_stays(station: Machine) -> None:
    station.sh("mv /opt/weldwatch/current /root/link && mkdir /opt/weldwatch/current")
    try:
        for run in ("/root/next/install.sh", "/root/kit/install.sh --rollback"):
            done = station.sh(run, check=False)
            assert done.returncode == 2
            (line,) = done.stderr.splitlines()
            assert "/opt/weldwatch/current is a folder made by hand: move it away" in line
            assert done.stdout == ""
    finally:
        station.sh("rmdir /opt/weldwatch/current; mv /root/link /opt/weldwatch/current")


def test_two_at_once_are_one(station: Machine) -> None:
    done = station.sh("flock /opt/weldwatch /root/next/install.sh", check=False)
    assert done.returncode == 2
    assert "another install.sh is at work" in done.stderr


def test_who_is_not_root_is_told_in_one_line(station: Machine) -> None:
    station.sh("rm -rf /tmp/kit && cp -r /root/kit /tmp/kit && chmod -R go+rX /tmp/kit")
    done = station.sh("cd / && setpriv --reuid=nobody --regid=nogroup --clear-groups /tmp/kit/install.sh", check=False)
    assert done.returncode == 2
    assert done.stderr == "install.sh: must be run as root: sudo /tmp/kit/install.sh\n"
