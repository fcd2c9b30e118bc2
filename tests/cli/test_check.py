"""``weldwatch check``: what it finds on stations with something wrong, and what it says to do."""

from __future__ import annotations

import json
import os
import pwd
import socket
import sqlite3
import subprocess
import threading
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from agent import config
from agent.cli.check import arrival, machine, network, station
from agent.cli.check.finding import Finding
from agent.cli.check.station import user
from agent.clock import SystemClock, iso_utc, kernels_word
from agent.ledger import Ledger, database
from tests.support import certificates
from tests.support.mosquitto import Mosquitto
from tests.support.ports import free_port
from tests.support.results import an_entry
from tests.support.station import Station, until, weldwatch


def findings(station: Station, expected: int = 0) -> dict[str, dict[str, Any]]:
    done = weldwatch("check", "--config", station.file, "--json")
    assert done.returncode == expected, done.stdout + done.stderr
    return {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}


def test_a_sound_station_has_every_kind_of_finding_and_is_not_changed(tmp_path: Path) -> None:
    station = Station(tmp_path / "s", metrics={"port": free_port()})
    before = sorted(path for path in station.root.rglob("*"))
    found = findings(station)
    assert {"configuration", "user", "bundle", "sources[0].path", "state", "results.directory", "disk of state",
            "disk endurance", "clock", "inotify", "service", "mqtt", "metrics"} <= found.keys()  # fmt: skip
    assert {finding["state"] for finding in found.values()} <= {"ok", "warning"}
    assert all(finding["remedy"] for finding in found.values() if finding["state"] != "ok")
    assert sorted(path for path in station.root.rglob("*")) == before


def test_certificates_are_looked_at_before_they_end(tmp_path: Path) -> None:
    authority = certificates.authority(tmp_path / "ca")
    server, server_key = authority.issue("server", days="90")
    mine, mine_key = authority.issue("mine", days="10")
    lines = [f"cafile {authority.ca}", f"certfile {server}", f"keyfile {server_key}"]
    with Mosquitto(tmp_path / "broker", lines=lines) as broker:
        tls = {"ca": str(authority.ca), "cert": str(mine), "key": str(mine_key)}
        station = Station(tmp_path / "s", mqtt={"host": "127.0.0.1", "port": broker.port, "tls": tls})
        found = findings(station)
    assert found["mqtt"]["state"] == "ok"
    assert found["mqtt.tls.cert"]["state"] == "warning"
    assert "days" in found["mqtt.tls.cert"]["detail"]
    assert found["certificate of 127.0.0.1"]["state"] == "ok"


def test_a_certificate_that_has_ended_fails() -> None:
    now = datetime.now(timezone.utc)
    states = [network._until("x", now + timedelta(days=days), "do").state for days in (-1, 1, 29, 31)]
    assert states == ["failed", "warning", "warning", "ok"]


def test_a_port_for_metrics_that_somebody_else_has(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        station = Station(tmp_path / "s", metrics={"port": other.getsockname()[1]})
        found = findings(station, 1)["metrics"]
    assert found["state"] == "failed"
    assert "metrics.port" in found["remedy"]


def test_a_port_for_metrics_that_another_stations_agent_has(tmp_path: Path) -> None:
    port = free_port()
    mine, other = (Station(tmp_path / name, metrics={"port": port}) for name in ("mine", "other"))
    with other.running():
        until(lambda: network._is_an_agents("127.0.0.1", port), "its metrics")
        assert findings(other)["metrics"]["state"] == "ok"
        found = findings(mine, 1)["metrics"]
        assert (found["state"], found["remedy"]) == ("failed", "give this agent its own metrics.port")
        with mine.running():  # it holds its state folder, and has no port
            assert findings(mine, 1)["metrics"]["state"] == "failed"


def test_whose_port_for_metrics_it_is_may_be_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        settings = config.load(Station(tmp_path / "s", metrics={"port": other.getsockname()[1]}).file)
        monkeypatch.setattr(network, "_is_an_agents", lambda *_: True)
        for ours, state in ((None, "warning"), (True, "ok"), (False, "failed")):
            monkeypatch.setattr(network, "_is_ours", lambda *_, ours=ours: ours)
            (found,) = network.metrics(settings)
            assert found.state == state


def test_whoever_has_the_port_for_metrics_may_speak_anything(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def greet() -> None:
            client, _ = other.accept()
            with client:
                client.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
                client.recv(1000)

        thread = threading.Thread(target=greet)
        thread.start()
        station = Station(tmp_path / "s", metrics={"port": other.getsockname()[1]})
        found = findings(station, 1)["metrics"]
        thread.join()
    assert found["state"] == "failed"
    assert "in use" in found["detail"]


def test_it_says_as_whom_it_tries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That root goes on as the owner of the state folder is ``places.enter_state``'s, and tested there."""
    file = tmp_path / "agent.yaml"
    assert user(1, str(file)).state == "failed", "cannot be read"
    file.touch()
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    assert "owns the state folder" in user(0, str(file)).detail
    assert user(65534, str(file)).detail == f"the rest is tried as {pwd.getpwuid(65534).pw_name}"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert user(0, str(file)).state == "warning"


def test_endurance_is_an_estimate_from_what_was_inspected(tmp_path: Path) -> None:
    station = Station(tmp_path / "s")
    settings = config.load(station.file)
    assert "unknown" in only(machine.endurance(settings)).detail
    ledger = Ledger.open(Path(settings.state), SystemClock())
    now = datetime.now(timezone.utc)
    ledger.commit([an_entry(n, created_at=iso_utc(now - timedelta(hours=1))) for n in range(500)])
    ledger.close()
    found = only(machine.endurance(settings))
    assert (found.state, "500 results" in found.detail, "over 20" in found.detail) == ("ok", True, True)


def test_a_disk_that_is_written_to_death_is_warned_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "_last_day", lambda _: (1_700_000, 0.0))
    found = only(machine.endurance(config.load(Station(tmp_path / "s").file)))
    assert found.state == "warning"
    assert "25 TB a year" in found.detail
    assert "SSD" in found.remedy


def test_the_kernels_word_on_the_clock_is_that_of_adjtimex() -> None:
    """The same call through Python's other door to it, where there is one."""
    assert kernels_word() in (True, False, None)
    done = subprocess.run(["python3", "-c", _ADJTIMEX], capture_output=True, text=True, check=True)
    state = int(done.stdout)
    assert kernels_word() is (None if state < 0 else state != 5)  # TIME_ERROR: not synchronised


_ADJTIMEX = "import ctypes; print(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)))"


def test_the_ledger_is_looked_at_as_a_start_would_and_left_as_it_is(tmp_path: Path) -> None:
    one = Station(tmp_path / "s")
    settings = config.load(one.file)
    assert "the first start makes it" in only(station.ledger(settings)).detail
    Ledger.open(Path(settings.state), SystemClock()).close()
    assert only(station.ledger(settings)).state == "ok"
    file = Path(settings.state) / database.FILE
    with closing(sqlite3.connect(file)) as newer:
        newer.execute(f"PRAGMA user_version = {database.VERSION + 1}")
    before = file.read_bytes()
    found = only(station.ledger(settings))
    assert (found.state, f"schema {database.VERSION + 1}" in found.detail) == ("failed", True)
    assert file.read_bytes() == before
    (Path(settings.state) / database.DAMAGED_MARK).touch()
    assert only(station.ledger(settings)).state == "warning"


def test_too_few_watches_for_the_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(arrival, "_folders_below", lambda _: 10**7)
    found = only(arrival.arrival(config.load(Station(tmp_path / "s").file)))
    assert (found.state, "max_user_watches=40000000" in found.remedy) == ("warning", True)


def only(found: Any) -> Finding:
    (finding,) = found
    assert isinstance(finding, Finding)
    return finding
