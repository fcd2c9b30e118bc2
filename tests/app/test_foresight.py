"""What ends one day is a problem while there is time: certificates, and a clock that nobody keeps right."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from agent import clock, config
from agent.app import foresight
from agent.app.foresight import Foresight
from agent.clock import ManualClock, parse_iso
from agent.delivery import certificates as known
from agent.health import Health
from tests.support import certificates
from tests.support.mosquitto import Mosquitto
from tests.support.station import Station, until

NOW = datetime.now(timezone.utc)


@pytest.fixture(autouse=True)
def _a_clock_that_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foresight, "synchronised", lambda: None)


def looking(tmp_path: Path, **mqtt: Any) -> tuple[Foresight, Health, ManualClock]:
    station = Station(tmp_path / "s", **({"mqtt": {"host": "127.0.0.1", "port": 1, **mqtt}} if mqtt else {}))
    health, hands = Health(), ManualClock(NOW)
    return Foresight(config.load(station.file), health, hands), health, hands


def test_certificates_of_both_ends_are_seen_before_they_end_and_their_renewal_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "weldwatch")
    authority = certificates.authority(tmp_path / "ca", days="3650")
    server, server_key = authority.issue("server", days="100")
    mine, mine_key = authority.issue("mine", days="80")
    lines = [f"cafile {authority.ca}", f"certfile {server}", f"keyfile {server_key}"]
    with Mosquitto(tmp_path / "broker", lines=lines) as broker:
        tls = {"ca": str(authority.ca), "cert": str(mine), "key": str(mine_key)}
        seen, health, hands = looking(tmp_path, port=broker.port, tls=tls)
        seen.look()
        assert health.problems() == {}
        ends = {key: round((parse_iso(text) - NOW) / timedelta(days=1)) for key, text in seen.certificates().items()}
        assert ends == {"mqtt.tls.cert": 80, "mqtt.tls.ca": 3650, "mqtt.host": 100}
        hands.advance(60 * 86_400)
        seen.look()
        assert list(health.problems()) == ["certificate_ends:mqtt.tls.cert"]
    hands.advance(20.5 * 86_400)  # the broker is away, and its certificate known
    seen.look()
    assert list(health.problems()) == ["certificate_ended:mqtt.tls.cert", "certificate_ends:mqtt.host"]
    authority.issue("mine", days="400")
    seen.look()
    assert list(health.problems()) == ["certificate_ends:mqtt.host"]
    told = [record.getMessage() for record in caplog.records]
    assert [line.partition(": on ")[0] for line in told] == [
        "certificate_ends:mqtt.tls.cert",
        "certificate_ended:mqtt.tls.cert",
        "certificate_ends:mqtt.host",
        "certificate_ended:mqtt.tls.cert is over",
    ]


def test_one_that_is_made_anew_each_week_wakes_nobody(tmp_path: Path) -> None:
    authority = certificates.authority(tmp_path / "ca", days="365")
    mine, key = authority.issue("mine", days="9")
    seen, health, hands = looking(tmp_path, tls={"ca": str(authority.ca), "cert": str(mine), "key": str(key)})
    hands.advance(5 * 86_400)
    seen.look()
    assert health.problems() == {}
    hands.advance(2 * 86_400)
    seen.look()
    assert list(health.problems()) == ["certificate_ends:mqtt.tls.cert"]


def test_a_far_end_that_is_renewed_each_day_wakes_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked once a day while it has time; never is what it showed yesterday called due."""
    seen, health, hands = looking(tmp_path, tls={})
    day, asked = timedelta(days=1), []

    def served(_: object) -> known.Validity:
        asked.append(hands.now())
        begins = NOW + ((hands.now() - NOW) // (day * 0.6)) * day * 0.6  # renewed at six tenths of its life
        return known.Validity(begins, begins + day)

    monkeypatch.setattr(known, "served", served)
    for _ in range(10 * 96):
        seen.look()
        assert health.problems() == {}
        hands.advance(900)
    assert len(asked) < 25, "only where what is remembered is due"


def test_an_authority_that_ended_is_in_nobodys_way_beside_its_successor(tmp_path: Path) -> None:
    old, new = (certificates.authority(tmp_path / name, days=days) for name, days in (("old", "2"), ("new", "365")))
    both = tmp_path / "both.pem"
    both.write_bytes(old.ca.read_bytes() + new.ca.read_bytes())
    later = NOW + timedelta(days=3)
    assert (known.of_file(str(both), "mqtt.tls.ca", NOW).ends - NOW).days < 3, "the old one may still be in use"
    assert (known.of_file(str(both), "mqtt.tls.ca", later).ends - NOW).days > 300
    assert known.of_file(str(both), "mqtt.tls.cert", later).ends < later, "of a chain each must hold"
    assert known.of_file(str(old.ca), "mqtt.tls.ca", later).ends < later


def test_a_file_that_is_away_is_told_by_who_needs_it(tmp_path: Path) -> None:
    seen, health, _ = looking(tmp_path, tls={"ca": str(tmp_path / "nowhere.pem")})
    seen.look()
    assert (seen.certificates(), health.problems()) == ({}, {})


@pytest.mark.parametrize("days", ["5", "-1"])
def test_a_problem_goes_with_the_file_that_it_is_of(tmp_path: Path, days: str) -> None:
    authority = certificates.authority(tmp_path / "ca", days="365")
    mine, key = authority.issue("mine", days=days)
    seen, health, hands = looking(tmp_path, tls={"ca": str(authority.ca), "cert": str(mine), "key": str(key)})
    hands.advance(4 * 86_400)
    seen.look()
    assert len(health.problems()) == 1
    mine.unlink()
    seen.look()
    assert (list(seen.certificates()), health.problems()) == (["mqtt.tls.ca"], {})


def test_each_file_goes_by_the_key_that_leads_to_it(tmp_path: Path) -> None:
    one, two = {"ca": "/a"}, {"ca": "/b", "cert": "/c", "key": "/k"}
    station = Station(
        tmp_path,
        mqtt={"tls": one, "brokers": [{"host": "first"}, {"host": "second", "tls": two}]},
        webhook={"url": "https://mes.plant/hook", "tls": {"ca": "/d"}},
    )
    settings = config.load(station.file)
    assert known.files(settings) == {
        "mqtt.tls.ca": "/a",
        "mqtt.brokers[1].tls.cert": "/c",
        "mqtt.brokers[1].tls.ca": "/b",
        "webhook.tls.ca": "/d",
    }
    assert [one.key for one in known.far_ends(settings)] == [
        "mqtt.brokers[0].host",
        "mqtt.brokers[1].host",
        "webhook.url",
    ]


def test_a_clock_that_nobody_keeps_is_a_problem_once_a_start_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, health, _ = looking(tmp_path)
    for kept, problems in ((False, 0), (True, 0), (False, 0), (False, 1), (False, 1), (None, 0)):
        monkeypatch.setattr(foresight, "synchronised", lambda kept=kept: kept)
        seen.look()
        assert (len(health.problems()), seen.clock_synchronized) == (problems, kept)


def test_a_service_that_may_not_ask_the_kernel_asks_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``ProtectClock=`` of the unit filters adjtimex(2), the reading of it as well."""
    monkeypatch.setattr(clock, "kernels_word", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert clock.synchronised() is None
    for answer, kept in (("yes", True), ("no", False), ("", None)):
        tool = tmp_path / "timedatectl"
        tool.write_text(f"#!/bin/sh\necho {answer}\n")
        tool.chmod(0o755)
        assert clock.synchronised() is kept


def test_a_running_agent_foresees(tmp_path: Path) -> None:
    authority = certificates.authority(tmp_path / "ca", days="3650")
    mine, key = authority.issue("mine", days="-1")
    tls = {"ca": str(authority.ca), "cert": str(mine), "key": str(key)}
    station = Station(tmp_path / "s", mqtt={"host": "127.0.0.1", "port": 1, "tls": tls})
    with station.running():
        until(lambda: b"certificate_ended:mqtt.tls.cert: on " in station.log.read_bytes(), "its word")
