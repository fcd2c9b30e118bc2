"""``install.sh`` on a bare Debian with its own systemd: installed offline, at work, upgraded, gone back, removed.

Everything here happens in a machine of its own (``machine.py``): a real systemd starts the real unit.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from agent import __version__
from tests.deploy.conftest import NEXT
from tests.deploy.machine import VAR, Machine, cut_off, deliver, names, wait_for
from tests.support.bundles import brightness_bundle, flat_png
from tests.support.station import until

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(900)]  # the first makes the bare system


def test_a_frame_that_a_camera_delivers_is_judged_and_a_technician_reads_it(station: Machine) -> None:
    deliver(station, "a.png")
    wait_for(station, "a.png")
    told = station.told("weldwatch", "ActiveState", "User", "StatusText", "NRestarts", "WatchdogUSec")
    assert told["ActiveState"] == "active"
    assert told["User"] == "weldwatch"
    assert told["WatchdogUSec"] == "1min"
    station.sh("id technician >/dev/null 2>&1 || useradd --create-home --groups weldwatch technician")
    read = "setpriv --reuid=technician --regid=technician --init-groups weldwatch log"
    assert "a.png" in station.sh(f"cd / && {read}").stdout
    station.sh("id stranger >/dev/null 2>&1 || useradd stranger")
    strange = station.sh(f"setpriv --reuid=stranger --regid=stranger --init-groups ls /{VAR}", check=False)
    assert strange.returncode != 0
    ours = f"find /{VAR} ! -path '*/captures/*'"
    assert station.sh(f"{ours} ! -user weldwatch; {ours} -type f -perm /o+rwx").stdout == ""
    assert station.sh(f"{ours} -type f ! -perm -g+r").stdout == ""


def test_systemd_takes_the_units_and_finds_little_exposed(station: Machine) -> None:
    checked = station.sh("systemd-analyze verify weldwatch.service weldwatch@cam-2.service 2>&1")
    assert checked.stdout == ""
    for unit in ("weldwatch.service", "weldwatch@cam-2.service"):
        station.sh(f"systemd-analyze security --threshold=20 {unit}")  # 2.0; more is an exit code


def test_the_demo_flows(station: Machine) -> None:
    done = station.sh("cd /tmp && weldwatch demo --frames 10 --json --directory /tmp/demo")
    assert '"inspected": 10, "json_files": 10, "mqtt_received": 10' in done.stdout


def test_what_root_does_belongs_to_the_station(station: Machine, tmp_path: Path) -> None:
    """Also with a bundle that only root may read; and the agent takes it up."""
    brightness_bundle(tmp_path / "b.pipeline")
    ours = station.root / "root" / "private.pipeline"
    ours.write_bytes((tmp_path / "b.pipeline").read_bytes())
    ours.chmod(0o600)
    station.sh("weldwatch bundle install /root/private.pipeline")
    station.sh("weldwatch bundle activate brightness-1.0.0")
    found = station.sh(f"find /{VAR} ! -user weldwatch ! -path '*/captures/*'").stdout
    assert found == ""
    deliver(station, "bright.png", 250)
    wait_for(station, "bright.png")
    assert station.results()[-1]["model"]["name"] == "brightness"
    station.sh("weldwatch bundle rollback")


def test_a_service_that_hears_nothing_is_started_again_and_loses_no_frame(station: Machine) -> None:
    """The real systemd, with a shorter time: the process is stopped from outside, so that it tells nothing."""
    station.sh("mkdir -p /run/systemd/system/weldwatch.service.d && printf '[Service]\\nWatchdogSec=2\\n"
               "TimeoutStopSec=1\\n' > /run/systemd/system/weldwatch.service.d/short.conf && systemctl daemon-reload "
               "&& systemctl restart weldwatch")  # fmt: skip
    before = int(station.told("weldwatch", "NRestarts")["NRestarts"])
    station.sh(f"systemctl kill --signal={int(signal.SIGSTOP)} weldwatch")
    deliver(station, "meanwhile.png")
    until(lambda: int(station.told("weldwatch", "NRestarts")["NRestarts"]) > before, "the watchdog")
    wait_for(station, "meanwhile.png")
    assert names(station).count("meanwhile.png") == 1
    assert "Watchdog timeout" in station.sh("journalctl -u weldwatch --no-pager").stdout
    station.sh(
        "rm -r /run/systemd/system/weldwatch.service.d && systemctl daemon-reload && systemctl restart weldwatch"
    )
    station.wait_active("weldwatch")


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_whoever_ends_the_process_has_not_switched_the_station_off(station: Machine, sent: signal.Signals) -> None:
    before = station.told("weldwatch", "MainPID")["MainPID"]
    station.sh(f"kill -{int(sent)} {before}")
    deliver(station, f"ended-{int(sent)}.png")
    until(lambda: station.told("weldwatch", "MainPID")["MainPID"] not in ("0", before), "another process")
    station.wait_active("weldwatch")
    wait_for(station, f"ended-{int(sent)}.png")
    assert names(station).count(f"ended-{int(sent)}.png") == 1
    station.sh("systemctl stop weldwatch")
    assert station.told("weldwatch", "ActiveState") == {"ActiveState": "inactive"}, "this is how it is switched off"
    station.sh("systemctl start weldwatch")


def test_a_password_comes_as_a_credential(station: Machine) -> None:
    """A file that only root may read, a drop-in that hands it over, and a name in the configuration."""
    (station.root / "etc/weldwatch/credentials/mqtt-password").write_text("secret\n")
    station.sh("chmod 0600 /etc/weldwatch/credentials/mqtt-password; cp /etc/weldwatch/agent.yaml /root/before.yaml")
    drop_in = (Path(__file__).parents[2] / "systemd" / "credentials.conf").read_text()
    (station.root / "root/credentials.conf").write_text(drop_in)
    station.sh("install -D -m 0644 /root/credentials.conf /etc/systemd/system/weldwatch.service.d/credentials.conf")
    with (station.root / "etc/weldwatch/agent.yaml").open("a") as config:
        config.write("\nmqtt: {host: 127.0.0.1, username: cam-07, password_file: 'credential:mqtt-password'}\n")
    try:
        station.sh("systemctl daemon-reload && systemctl restart weldwatch")
        station.wait_active("weldwatch")
        by_root = station.sh("weldwatch check", check=False)
        assert "credential" not in by_root.stdout + by_root.stderr, "root may read what the unit hands over"
        station.sh("id technician >/dev/null 2>&1 || useradd --create-home --groups weldwatch technician")
        technician = "setpriv --reuid=technician --regid=technician --init-groups weldwatch check"
        by_hand = station.sh(f"cd / && {technician}", check=False)
        assert "mqtt-password" in by_hand.stdout, "it is closed to others, who are told"
        assert "Traceback" not in by_root.stderr + by_hand.stderr
        deliver(station, "to-replay.png")
        wait_for(station, "to-replay.png")
        station.sh("weldwatch outbox replay --since 1d")
        assert station.sh(f"find /{VAR} ! -user weldwatch ! -path '*/captures/*'").stdout == ""
    finally:
        station.sh("cp /root/before.yaml /etc/weldwatch/agent.yaml; rm -r /etc/systemd/system/weldwatch.service.d; "
                   "systemctl daemon-reload; systemctl restart weldwatch")  # fmt: skip


def test_a_second_camera_is_a_second_station_on_the_same_machine(station: Machine) -> None:
    station.sh(
        "sed -e 's/cam-07/cam-08/' -e 's#/var/lib/weldwatch#/var/lib/weldwatch/cam-08#' /etc/weldwatch/agent.yaml "
        "> /etc/weldwatch/cam-08.yaml && chgrp weldwatch /etc/weldwatch/cam-08.yaml && "
        f"install -d -o weldwatch -g weldwatch -m 2770 /{VAR}/cam-08 /{VAR}/cam-08/captures && "
        "systemctl enable --now weldwatch@cam-08"
    )
    try:
        (station.root / "srv" / "eight.png").write_bytes(flat_png(1))
        station.sh(f"install -o weldwatch -m 0640 /srv/eight.png /{VAR}/cam-08/captures/eight.png")
        wait_for(station, "eight.png", f"{VAR}/cam-08/results")
        assert station.results(f"{VAR}/cam-08/results")[0]["station"]["name"] == "cam-08"
        assert "eight.png" not in names(station)
    finally:
        station.sh("systemctl disable --now weldwatch@cam-08")


def test_an_upgrade_keeps_what_is_there_and_can_be_taken_back(station: Machine) -> None:
    deliver(station, "old.png")
    wait_for(station, "old.png")
    with (station.root / "etc/weldwatch/agent.yaml").open("a") as config:
        config.write("# mine\n")
    ours = (station.root / "etc/weldwatch/agent.yaml").read_text()
    running = station.told("weldwatch", "MainPID")
    assert f"{__version__} is there already" in station.sh("/root/kit/install.sh").stdout
    assert station.told("weldwatch", "MainPID") == running, "nothing is new: it goes on running"
    station.sh("mkdir -p /opt/weldwatch/notes && /root/next/install.sh")
    station.wait_active("weldwatch")
    station.sh("rmdir /opt/weldwatch/notes")  # a folder that is somebody's own
    assert station.sh("weldwatch --version").stdout == f"weldwatch {NEXT}\n"
    deliver(station, "new.png")
    wait_for(station, "new.png")
    old, new = (next(line for line in station.results() if line["image"]["name"] == f"{n}.png") for n in ("old", "new"))
    assert old["ledger_id"] == new["ledger_id"]
    assert old["sequence"] < new["sequence"]
    assert names(station).count("old.png") == 1
    assert (station.root / "etc/weldwatch/agent.yaml").read_text() == ours
    station.sh("/root/next/install.sh --rollback")
    station.wait_active("weldwatch")
    assert station.sh("weldwatch --version").stdout == f"weldwatch {__version__}\n"
    deliver(station, "back.png")
    wait_for(station, "back.png")


def test_wheels_that_were_tampered_with_change_nothing(station: Machine) -> None:
    station.sh("rm -rf /root/bad && cp -r /root/next /root/bad && echo x | tee -a /root/bad/weldwatch-*.whl >/dev/null")
    station.sh("echo '# another set' >> /root/bad/requirements.txt")
    done = station.sh("/root/bad/install.sh", check=False)
    assert done.returncode == 1
    assert "do not fit" in done.stderr
    assert "Traceback" not in done.stderr
    assert station.sh("weldwatch --version").stdout == f"weldwatch {__version__}\n"


def test_mistakes_are_one_line_that_says_what_to_do(station: Machine) -> None:
    for options, code, said in (
        ("--purge", 2, "--purge goes with --uninstall"),
        ("--wheels /nowhere", 2, "has no requirements.txt; make it with deploy/make-wheels.sh"),
        ("--python /usr/bin/python9", 2, "there is no /usr/bin/python9"),
    ):
        done = station.sh(f"/root/kit/install.sh {options}", check=False)
        assert done.returncode == code
        assert said in done.stderr


def test_removing_keeps_what_is_the_stations_until_it_is_purged(station: Machine) -> None:
    deliver(station, "last.png")
    wait_for(station, "last.png")
    station.sh("/root/kit/install.sh --uninstall")
    assert station.told("weldwatch", "LoadState") == {"LoadState": "not-found"}
    assert not (station.root / "opt/weldwatch").exists()
    assert station.sh("command -v weldwatch", check=False).returncode != 0
    assert "last.png" in names(station)
    assert (station.root / VAR / "ledger.sqlite3").exists()
    assert (station.root / "etc/weldwatch/agent.yaml").exists()
    station.sh("/root/kit/install.sh")
    deliver(station, "again.png")
    wait_for(station, "again.png")
    assert names(station).count("last.png") == 1
    station.sh("/root/kit/install.sh --uninstall --purge")
    left = station.sh("find / -xdev \\( -name '*weldwatch*' -o -user weldwatch \\) -not -path '/root/*' -not -path "
                      "'/proc/*' -not -path '/var/log/*' 2>/dev/null", check=False).stdout  # fmt: skip
    assert left == ""
    assert station.sh("getent passwd weldwatch", check=False).returncode != 0
    cut_off(station, "kit/install.sh")
    station.sh("/root/kit/install.sh")  # finishes it
    assert station.told("weldwatch", "UnitFileState", "ActiveState") == {
        "UnitFileState": "enabled", "ActiveState": "active",
    }  # fmt: skip
    station.sh("/root/kit/install.sh --uninstall --purge && /root/kit/install.sh --uninstall --purge")  # as well
