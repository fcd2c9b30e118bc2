"""A station that stands still is started again and has lost nothing; one that waits is left alone.

The service manager is ``tests/support/supervisor.py``, which does what systemd does; the agent is the real one, with a
fault put into one place of it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from agent.app.notify import Notify
from agent.app.watchdog import Watchdog
from agent.bundle.manifest import Golden
from agent.pulse import Pulse
from tests.support import stuck_agent
from tests.support.bundles import brightness_bundle, flat_png
from tests.support.station import WELDWATCH, Station, until, weldwatch
from tests.support.supervisor import Supervisor

pytestmark = pytest.mark.quiet

WATCHDOG_S = 4.0
FRAMES = 24


@pytest.fixture
def station(tmp_path: Path) -> Station:
    return Station(tmp_path)


def real_agent(station: Station) -> list[str]:
    return [*WELDWATCH, "run", "--config", str(station.file)]


def stuck(station: Station, fault: str) -> list[str]:
    """The same with a fault in it, which strikes once there is a file ``fault``."""
    return [sys.executable, stuck_agent.__file__, fault, str(station.root / "fault"), "--config", str(station.file)]


@pytest.mark.parametrize("fault", stuck_agent.FAULTS)
def test_a_stuck_step_is_ended_within_the_watchdogs_time_and_no_frame_is_lost(station: Station, fault: str) -> None:
    mark = station.root / "fault"
    with Supervisor(stuck(station, fault), station.log, WATCHDOG_S) as service:
        station.put("before.png", flat_png(1))
        station.wait_for(1)
        mark.touch()
        for number in range(FRAMES):
            station.put(f"{number}.png", flat_png(number))
        until(lambda: not mark.exists(), "the fault to strike")
        struck = time.monotonic()
        until(lambda: len(service.ready_at) == 2, "the second life")
        # A manager that hears nothing counts from the last word, up to a tenth before the fault.
        assert service.ended_at[0] - struck < WATCHDOG_S + 1
        station.wait_for(1 + FRAMES)
    assert service.ends[1:] == [0]
    assert service.ends[0] == (-signal.SIGABRT if fault == "interpreter" else 1)
    lines = station.lines()
    assert sorted(line["image"]["name"] for line in lines) == sorted(
        ["before.png", *(f"{n}.png" for n in range(FRAMES))]
    )
    assert [line["sequence"] for line in lines] == list(range(1, FRAMES + 2))
    log = station.log.read_text()
    assert fault == "interpreter" or "ERROR   stuck: the " in log
    assert "stuck_agent.py" in log, "the stacks show where it stood"


@pytest.mark.slow
def test_an_idle_night_restarts_nothing(station: Station) -> None:
    """A night in small: no frame for six times the watchdog's time."""
    with Supervisor(real_agent(station), station.log, WATCHDOG_S) as service:
        until(lambda: sum("WATCHDOG=1" in told for told in service.told) > 60, "sixty looks", 90)
        assert len(service.ready_at) == 1
        assert service.ready_at[0] + 5 * WATCHDOG_S < time.monotonic()
        station.put("morning.png", flat_png(1))
        station.wait_for(1)
    assert (service.ends, service.aborted) == ([0], 0)
    assert service.told[-1] == "STOPPING=1"


@pytest.mark.slow
def test_what_only_waits_restarts_nothing(station: Station) -> None:
    """A broker that is away, a disk without space, a deep backlog and a capture folder that is gone."""
    station.settings["mqtt"] = {"host": "127.0.0.1", "port": 9}
    station.settings["results"]["min_free_mb"] = 10**9
    station.write()
    for number in range(50):
        station.put(f"{number}.png", flat_png(number))
    with Supervisor(real_agent(station), station.log, WATCHDOG_S) as service:
        until(lambda: sum("WATCHDOG=1" in told for told in service.told) > 15, "fifteen looks")
        assert "disk_low" in service.told[-1]
        assert "broker_away" in service.told[-1]
    assert (service.ends, service.aborted) == ([0], 0)
    station.settings["results"]["min_free_mb"] = 0
    station.write()
    with Supervisor(real_agent(station), station.log, WATCHDOG_S) as service:
        station.wait_for(50)
        station.captures.rename(station.root / "away")
        until(lambda: "folder_missing:captures" in service.told[-1], "the folder to be missed")
        looks = len(service.told)
        until(lambda: len(service.told) > looks + 15, "fifteen looks more")
    assert (service.ends, service.aborted) == ([0], 0)


@pytest.mark.slow
def test_a_bundle_that_is_taken_up_slowly_restarts_nothing(station: Station) -> None:
    """Its self-test takes longer than the watchdog waits, at the start and at a swap."""
    station.settings.pop("bundle")
    station.write()
    large = flat_png(128, (8000, 6000))
    outputs = {"fp32": [1 - 128 / 255, 128 / 255]}
    for name in ("slow", "slower"):
        bundle = station.root / f"{name}.pipeline"
        golden = [Golden(image="golden/large.png", outputs=outputs)] * 24
        brightness_bundle(bundle, name=name, entries={"golden/large.png": large}, golden=golden)
        assert weldwatch("bundle", "install", bundle, "--config", station.file).returncode == 0
    assert weldwatch("bundle", "activate", "slow-1.0.0", "--config", station.file).returncode == 0
    started = time.monotonic()
    with Supervisor(real_agent(station), station.log, WATCHDOG_S / 2) as service:
        assert service.ready_at[0] - started > WATCHDOG_S / 2
        started = time.monotonic()
        assert weldwatch("bundle", "activate", "slower-1.0.0", "--config", station.file).returncode == 0
        until(lambda: b"bundle slower 1.0.0" in station.log.read_bytes(), "the swap", 120)
        assert time.monotonic() - started > WATCHDOG_S / 2
    assert (service.ends, service.aborted) == ([0], 0)


def test_a_process_that_was_suspended_is_not_stuck(station: Station) -> None:
    """As a whole, by a debugger or a machine that sleeps: it has not looked meanwhile, so nothing was seen to stand."""
    station.settings["mqtt"] = None
    command = [*real_agent(station), "--watchdog", "1"]
    with Supervisor(command, station.log, None) as service:
        assert service.process is not None
        service.process.send_signal(signal.SIGSTOP)
        time.sleep(2.5)  # longer than the limit: it is the passing of time that must not matter
        service.process.send_signal(signal.SIGCONT)
        station.put("a.png", flat_png(1))
        station.wait_for(1)
    assert service.ends == [0]


def test_without_a_service_manager_the_option_alone_ends_a_stuck_agent(station: Station) -> None:
    """In a container, where the engine starts again what ends."""
    (station.root / "fault").touch()
    station.put("a.png", flat_png(1))
    command = [*stuck(station, "inference"), "--watchdog", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "stuck: the inspector does not come to the end of: judging an image (limit 1 s)" in done.stderr


def test_what_the_manager_wants_is_read_once_and_handed_to_no_child() -> None:
    environment = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid()), "A": "b"}
    assert Notify.from_environment(environment).watchdog_s == 30
    assert environment == {"A": "b"}
    for other in (
        {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"},
        {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "30000000"},
        {},
    ):
        assert Notify.from_environment(other).watchdog_s is None


def test_a_manager_that_is_gone_ends_nothing(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with Watchdog(Notify(str(tmp_path / "nobody"))).watching({"inspector": Pulse()}, lambda: "well"):
        assert "manager_deaf: the service manager does not hear us" in caplog.text
    assert not [thread for thread in threading.enumerate() if thread.name == "watchdog" and not thread.daemon]


@pytest.mark.parametrize("value", ["0", "-1", "nan", "soon", "1e9"])
def test_a_limit_that_makes_no_sense_is_refused(value: str, station: Station) -> None:
    done = weldwatch("run", "--watchdog", value, "--config", station.file)
    assert done.returncode == 2
    assert "a number of seconds from 1 to 3600" in done.stderr
