"""What the service may not reach is found by ``weldwatch check``, for the unit that runs the configuration given."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent import config
from agent.cli import service
from agent.cli.check import arrival, examine, machine, sandbox, station
from agent.cli.check.finding import Finding
from agent.cli.main import main
from agent.cli.support import contents
from tests.docs.pages import ROOT
from tests.support.station import Station


@pytest.fixture
def units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of units: ours as they ship, in the vendor's; nothing in the administrator's, which is given."""
    etc, lib = tmp_path / "etc", tmp_path / "lib"
    etc.mkdir()
    lib.mkdir()
    monkeypatch.setattr(service, "FOLDERS", [etc, lib])
    for name in ("weldwatch.service", "weldwatch@.service"):
        text = (ROOT / "systemd" / name).read_text(encoding="utf-8")
        (lib / name).write_text(text.replace("User=weldwatch", "User=root").replace("/etc/weldwatch", str(tmp_path)))
    return etc


def drop_in(units: Path, unit: str, text: str, name: str = "paths.conf") -> None:
    folder = units / f"{unit}.d"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"[Service]\n{text}\n")


def judged(file: Path, **changes: Any) -> dict[str, Finding]:
    """Findings on a configuration with everything below /var/lib/weldwatch, but for the changes."""
    settings: dict[str, Any] = {
        "station": {"name": "cam-07"},
        "state": "/var/lib/weldwatch",
        "results": {"directory": "/var/lib/weldwatch/results"},
        "sources": [{"type": "folder", "name": "captures", "path": "/var/lib/weldwatch/captures", "after": "delete"}],
        **changes,
    }
    parsed = config.parse(yaml.safe_dump(settings))
    return {one.name: one for one in sandbox.sandbox(parsed, service.unit_of(file), str(file))}


def folder(path: str, **more: Any) -> list[dict[str, Any]]:
    return [{"type": "folder", "name": "captures", "path": path, **more}]


# The configuration itself lies below /tmp here, which a service with PrivateTmp does not see.
OPEN_TMP = "PrivateTmp=no"


@pytest.fixture
def file(tmp_path: Path, units: Path) -> Path:
    drop_in(units, "weldwatch.service", OPEN_TMP, "00-tests.conf")
    drop_in(units, "weldwatch@.service", OPEN_TMP, "00-tests.conf")
    return tmp_path / "agent.yaml"


def test_what_the_units_are_made_for_is_open(file: Path) -> None:
    found = judged(file)
    assert [(one.name, one.state) for one in found.values()] == [("sandbox", "ok")]
    assert "weldwatch.service" in found["sandbox"].detail


@pytest.mark.parametrize(
    ("changes", "key", "why", "wanted"),
    [
        (
            {"sources": folder("/srv/cam", after="delete")},
            "sources[0].path",
            "ProtectSystem=strict",
            "ReadWritePaths=/srv/cam",
        ),
        ({"sources": folder("/home/ftp/cam")}, "sources[0].path", "ProtectHome=yes", "ProtectHome=read-only"),
        (
            {"sources": folder("/srv/c", rejected="/srv/no")},
            "sources[0].rejected",
            "ProtectSystem",
            "ReadWritePaths=/srv/c /srv/no",
        ),
        (
            {"results": {"directory": "/data/results"}},
            "results.directory",
            "ProtectSystem",
            "ReadWritePaths=/data/results",
        ),
        ({"state": "/opt/state"}, "state", "ProtectSystem", "ReadWritePaths=/opt/state"),
        (
            {"bundle": {"trusted_keys": "/etc/keys", "drop_folder": "/srv/drop"}},
            "bundle.drop_folder",
            "ProtectSystem",
            "=/srv/drop",
        ),
        (
            {"bundle": {"trusted_keys": "/etc/keys", "remote": {"folder": "/home/fleet"}}},
            "bundle.remote.folder",
            "ProtectHome",
            "ProtectHome=read-only",
        ),
        ({"mqtt": {"host": "b", "tls": {"ca": "/root/ca.pem"}}}, "mqtt.tls.ca", "ProtectHome", "ProtectHome=read-only"),
        (
            {"mqtt": {"host": "b", "username": "u", "password_file": "/home/u/pw"}},
            "mqtt.password_file",
            "ProtectHome",
            "read-only",
        ),
        (
            {"sources": [{"type": "camera", "name": "t", "url": "usb:0"}]},
            "sources[0].url",
            "PrivateDevices=yes",
            "PrivateDevices=no",
        ),
        (
            {"sources": folder("/home/x", after="delete")},
            "sources[0].path",
            "ProtectHome",
            "ProtectHome=read-only\\nReadWritePaths=/home/x",
        ),
    ],
)
def test_what_the_sandbox_keeps_from_the_service_is_told_with_the_drop_in(
    file: Path, changes: dict[str, Any], key: str, why: str, wanted: str
) -> None:
    found = judged(file, **changes)
    assert found[f"sandbox: {key}"].state == "failed"
    assert why in found[f"sandbox: {key}"].detail
    assert found["sandbox"].state == "failed"
    assert wanted in found["sandbox"].remedy
    assert "sudo tee -a /etc/systemd/system/weldwatch.service.d/paths.conf" in found["sandbox"].remedy


def test_what_is_only_read_may_be_read_only(file: Path) -> None:
    assert judged(file, sources=folder("/srv/cam"))["sandbox"].state == "ok"


def test_what_it_says_to_write_mends_it(file: Path, units: Path) -> None:
    """The very text of the printf, run by a shell."""
    changes: dict[str, Any] = {
        "sources": folder("/home/ftp/cam 1", after="archive", archive="/srv/a%b"),
        "results": {"directory": "/data/results"},
    }
    remedy = judged(file, **changes)["sandbox"].remedy
    text = remedy[remedy.index("printf") : remedy.index(" | ")]
    made = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True).stdout
    assert made == '[Service]\nProtectHome=read-only\nReadWritePaths=/data/results "/home/ftp/cam 1" /srv/a%%b\n'
    drop_in(units, "weldwatch.service", made.partition("\n")[2].replace("=/", "=-/"))
    left = {name: one.state for name, one in judged(file, **changes).items()}
    # The paths are not there on this machine, which keeps a service from starting, too.
    assert {name for name, state in left.items() if state == "failed"} <= {"sandbox: unit"}


def test_tmp_is_the_services_own_and_no_drop_in_is_offered(file: Path, units: Path) -> None:
    (units / "weldwatch.service.d" / "00-tests.conf").unlink()
    found = judged(file, sources=folder("/var/tmp/cam"))
    assert "PrivateTmp" in found["sandbox: sources[0].path"].detail
    assert found["sandbox"].remedy.startswith("name another folder than ")
    assert "tee" not in found["sandbox"].remedy
    drop_in(units, "weldwatch.service", "ReadWritePaths=-/var/tmp/cam")
    assert judged(file, sources=folder("/var/tmp/cam"))["sandbox"].state == "failed", "which opens nothing there"


def test_below_what_is_closed_nothing_is_opened_again_but_below_an_empty_home_is_what_is_bound(
    file: Path, units: Path
) -> None:
    drop_in(units, "weldwatch.service", "ReadWritePaths=-/home/x")
    assert judged(file, sources=folder("/home/x"))["sandbox"].state == "failed"
    drop_in(units, "weldwatch.service", "ProtectHome=tmpfs\nBindPaths=/srv/x:/home/x")
    assert judged(file, sources=folder("/home/x", after="delete"))["sandbox"].state == "ok"


def test_of_dev_the_shared_memory_is_the_hosts(file: Path, units: Path) -> None:
    assert judged(file, sources=folder("/dev/shm/captures", after="delete"))["sandbox"].state == "ok"
    assert judged(file, sources=folder("/dev/captures"))["sandbox"].state == "failed"
    drop_in(units, "weldwatch.service", "InaccessiblePaths=/dev/shm")
    assert judged(file, sources=folder("/dev/shm/captures"))["sandbox"].state == "failed"


def test_drop_ins_count_in_systemds_order(file: Path, units: Path) -> None:
    drop_in(units, "weldwatch.service", "ReadWritePaths=-/srv", "10-more.conf")
    assert judged(file, state="/srv/state")["sandbox"].state == "ok"
    drop_in(units, "weldwatch.service", "ReadWritePaths=", "20-none.conf")
    assert judged(file, state="/srv/state")["sandbox"].state == "failed"
    (units.parent / "lib" / "weldwatch.service.d").mkdir()
    (units.parent / "lib" / "weldwatch.service.d" / "30-all.conf").write_text("[Service]\nProtectSystem=no\n")
    assert judged(file, state="/srv/state")["sandbox"].state == "ok"
    drop_in(units, "weldwatch.service", "", "30-all.conf")  # hides the vendor's of this name
    assert judged(file, state="/srv/state")["sandbox"].state == "failed"


def test_the_unit_is_that_of_the_configuration_given(file: Path, units: Path, tmp_path: Path) -> None:
    drop_in(units, "weldwatch@line2.service", "ReadWritePaths=-/srv/line2")
    for name, unit in (("agent", "weldwatch.service"), ("line1", "weldwatch@line1.service")):
        found = service.unit_of(tmp_path / f"{name}.yaml")
        assert found is not None
        assert found.name == unit
    changes = {"state": "/srv/line2", "results": {"directory": "/var/lib/weldwatch/line2/results"},
               "sources": folder("/var/lib/weldwatch/line2/captures", after="delete")}  # fmt: skip
    assert judged(tmp_path / "line2.yaml", **changes)["sandbox"].state == "ok"
    one = judged(tmp_path / "line1.yaml", **changes)
    assert {name for name, finding in one.items() if finding.state == "failed"} == {
        "sandbox", "sandbox: state", "sandbox: results.directory", "sandbox: sources[0].path",
    }  # fmt: skip
    assert "weldwatch@line1.service.d/paths.conf" in one["sandbox"].remedy
    assert service.unit_of(tmp_path / "elsewhere" / "agent.yaml") is None
    assert "no unit" in judged(tmp_path / "elsewhere" / "agent.yaml")["sandbox"].detail


def test_a_unit_that_cannot_start_for_a_path_and_a_credential_nobody_hands_over(file: Path, units: Path) -> None:
    drop_in(units, "weldwatch.service", "ReadWritePaths=/srv/not-mounted-yet\nLoadCredential=mqtt-key:/etc/k")
    tls = {"ca": "/etc/ca.pem", "cert": "credential:mqtt-cert", "key": "credential:mqtt-key"}
    found = judged(file, mqtt={"host": "b", "tls": tls})
    assert "226/NAMESPACE" in found["sandbox: unit"].detail
    assert "LoadCredential=mqtt-cert" in found["sandbox: mqtt.tls.cert"].remedy
    assert "sandbox: mqtt.tls.key" not in found


def test_another_user_than_the_services_is_told(file: Path, units: Path) -> None:
    drop_in(units, "weldwatch.service", "User=nobody")
    assert judged(file)["sandbox: user"].state == "warning"
    drop_in(units, "weldwatch.service", "User=nobody-of-this-name")
    assert judged(file)["sandbox: user"].state == "failed"


def test_the_watchdog_asked_for_is_that_of_the_unit(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "systemctl").write_text("#!/bin/sh\necho LoadState=loaded\necho UnitFileState=disabled\n")
    (tools / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setattr(machine, "_BOOTED", tmp_path)
    (found,) = machine.watchdog(service.unit_of(tmp_path / "line2.yaml"))
    assert found.remedy == "systemctl enable --now weldwatch@line2.service"


def test_check_is_red_where_only_the_service_is_kept_out(
    tmp_path: Path, units: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = Station(tmp_path / "s")
    assert main(["check", "--config", str(one.file)]) == 0
    run = f"ExecStart=/opt/weldwatch run --config {one.file}\nProtectSystem=strict"
    (units / "weldwatch-mine.service").write_text(f"[Service]\n{run}\n")
    assert main(["check", "--config", str(one.file)]) == 1
    said = capsys.readouterr().out
    assert f"ReadWritePaths={one.results} {one.settings['state']}\\n'" in said
    (units / "weldwatch-mine.service").write_text(f"[Service]\n{run}\nReadWritePaths={tmp_path}\n")
    assert main(["check", "--config", str(one.file)]) == 0


def test_the_credentials_of_the_unit_that_runs_are_used_and_taken_out_of_what_is_packed(
    tmp_path: Path, units: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "CREDENTIALS", tmp_path / "run")
    monkeypatch.setattr("os.environ", {**os.environ})
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    one = Station(
        tmp_path / "s", mqtt={"host": "127.0.0.1", "port": 1, "password_file": "credential:pw", "username": "u"}
    )
    (units / "weldwatch-mine.service").write_text(
        f"[Service]\nExecStart=/opt/weldwatch run --config {one.file}\nLoadCredential=pw:/etc/pw\n"
    )
    found = {finding.name: finding for finding in examine(config.load(one.file), str(one.file))}
    assert "only a service has credentials" in found["mqtt"].detail, "it does not run"
    (tmp_path / "run" / "weldwatch-mine.service").mkdir(parents=True)
    (tmp_path / "run" / "weldwatch-mine.service" / "pw").write_text("of-the-service")
    (units / "weldwatch-mine.service.d").mkdir()
    (units / "weldwatch-mine.service.d" / "leak.conf").write_text("[Service]\nUser=of-the-service\n")
    parts = dict(contents.gather(one.file, 0))
    check = {finding["name"]: finding for finding in json.loads(parts["check.json"])}
    assert "nothing listening" in check["mqtt"]["detail"], "with its password it is tried"
    assert "(removed)" in check["sandbox: user"]["detail"]
    assert b"of-the-service" not in b"".join(parts.values())


def test_variables_of_the_unit_are_used_and_taken_out_of_what_is_packed(
    tmp_path: Path, units: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.environ", {**os.environ, "MINE": "of-this-shell"})
    one = Station(
        tmp_path / "s",
        mqtt={"brokers": [{"host": "127.0.0.1", "port": 1, "username": "u", "password_env": name}
                          for name in ("BROKER_A", "BROKER_B", "MINE")]},
    )  # fmt: skip
    (tmp_path / "env").write_text("# of the broker\nBROKER_B='from a file'\nMINE=of-the-unit\nBROKER_A=it is#this\n")
    (units / "weldwatch-mine.service").write_text(
        f"[Service]\nExecStart=/opt/weldwatch run --config {one.file}\nUser=from a file\n"
        f'Environment="BROKER_A=hidden" X=1\nEnvironmentFile=-{tmp_path}/env\nEnvironmentFile=-/nowhere\n'
    )
    parts = dict(contents.gather(one.file, 0))
    told = [finding["detail"] for finding in json.loads(parts["check.json"]) if finding["name"] == "mqtt"]
    assert len(told) == 3
    assert all("nothing listening" in detail for detail in told), told
    known = (os.environ["BROKER_A"], os.environ["BROKER_B"], os.environ["MINE"])
    assert known == ("it is#this", "from a file", "of-this-shell")
    assert "X" not in os.environ, "no variable but those that the configuration names: it may be LD_PRELOAD"
    assert b"from a file" not in parts["check.json"]


def test_folders_that_bundles_come_by_are_tried(tmp_path: Path) -> None:
    keys, drop = tmp_path / "keys", tmp_path / "drop"
    for made in (keys, drop):
        made.mkdir()
    ways = {"trusted_keys": str(keys), "drop_folder": str(drop), "remote": {"folder": str(tmp_path / "nowhere")}}
    one = Station(tmp_path / "s")
    one.settings["bundle"].update(ways)
    one.write()
    found = {finding.name: finding.state for finding in station.folders(config.load(one.file))}
    assert (found["bundle.drop_folder"], found["bundle.remote.folder"]) == ("ok", "failed")


def test_a_network_mount_is_looked_at_and_not_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrival, "_is_remote", lambda _: True)
    one = Station(tmp_path / "s")
    for rescan_s, state in ((5, "ok"), (60, "warning")):
        one.settings["sources"][0]["rescan_s"] = rescan_s
        one.write()
        (found,) = arrival.arrival(config.load(one.file))
        assert (found.name, found.state) == ("sources[0] arrival", state)
        assert f"every {rescan_s} s" in found.detail
