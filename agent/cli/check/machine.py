"""What belongs to the machine: disks and how long they last, clock, the service's watchdog.

What cannot be told here (in a container, on a file system that does not say) is said to be unknown, never guessed.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli.check.finding import Finding, nearest

if TYPE_CHECKING:
    from agent.cli.service import Unit
    from agent.config import AgentConfig

WRITTEN_KB = 40  #: to disk a result, at most, at one a second (docs/operations.md, "How much space")
#: What 32 GB of industrial eMMC stand at least, written by an application: 3000 erasures of each cell, of which the
#: controller's own writing (small synced writes) takes four fifths.
EMMC_TB = 20.0
_YEARS_WANTED = 5.0
_BOOTED = Path("/run/systemd/system")  #: there where systemd runs (sd_booted(3))


def disk(config: AgentConfig) -> Iterator[Finding]:
    """Space, and whether what is kept can fit."""
    from agent.app.places import free_mb

    wanted = config.results.min_free_mb
    for key, folder in (("state", Path(config.state)), ("results.directory", Path(config.results.directory))):
        free = free_mb(nearest(folder)) or 0
        name = f"disk of {key}"
        if free < wanted:
            yield Finding(name, "failed", f"{free} MB free", f"free space: inspection waits below {wanted} MB")
        elif wanted and free < wanted * 1.5:
            remedy = f"from {wanted * 5 // 4} MB down old results are removed early: a larger disk, or fewer keep_days"
            yield Finding(name, "warning", f"{free} MB free", remedy)
        else:
            yield Finding(name, "ok", f"{free} MB free")


def endurance(config: AgentConfig) -> Iterator[Finding]:
    """An estimate from what was inspected in the last day: honest about what it does not know."""
    name = "disk endurance"
    measured = _last_day(config)
    if measured is None:
        yield Finding(name, "ok", "unknown: no results of the last 24 h to estimate from")
        return
    results, frames_kb = measured
    tb_a_year = (results * WRITTEN_KB + frames_kb) * 365 / 1e9
    years = EMMC_TB / tb_a_year if tb_a_year else float("inf")
    detail = (
        f"{results} results in the last 24 h write at most {tb_a_year:.2g} TB a year ({WRITTEN_KB} kB each"
        f"{', and the saved frames' if frames_kb else ''}); 32 GB of industrial eMMC stand some {EMMC_TB:g} TB: "
        f"{'over 20' if years > 20 else f'about {years:.1g}'} years. A rule of thumb; the maker's figure counts"
    )
    if years < _YEARS_WANTED:
        remedy = "an SSD for results and state, results.per_image: false, or format: jpeg for saved frames"
        yield Finding(name, "warning", detail, remedy)
    else:
        yield Finding(name, "ok", detail)


def _last_day(config: AgentConfig) -> tuple[int, float] | None:
    """Results, and kB of frames that were saved for them."""
    import json

    from agent.clock import SystemClock, iso_utc
    from agent.config import CameraConfig
    from agent.errors import WeldwatchError
    from agent.ledger.reader import Reader

    now = SystemClock().now()
    since, until = iso_utc(now - timedelta(days=1)), iso_utc(now + timedelta(days=1))
    cameras = {source.name for source in config.sources if isinstance(source, CameraConfig)}
    try:
        with Reader(Path(config.state)) as ledger:
            _, _, count = ledger.span(since, until)
            images = [json.loads(one.body)["image"] for one in ledger.results(since=since, newest=200)]
    except WeldwatchError:
        return None  # what is wrong with it is another finding
    if not count:
        return None
    saved = [image["bytes"] or 0 for image in images if image["source"] in cameras]
    return count, sum(saved) / 1000 / len(images) * count


def clock(_: AgentConfig) -> Iterator[Finding]:
    """Set at all, and kept right by somebody."""
    import time

    from agent.clock import synchronised

    now = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    if time.time() < 1_767_225_600:  # 2026-01-01, before the first release
        yield Finding("clock", "failed", f"it is {now}", "set the clock; results carry its time")
        return
    kept = synchronised()
    if kept is None:
        yield Finding("clock", "ok", f"{now}; whether it is synchronised cannot be told here")
    elif kept:
        yield Finding("clock", "ok", f"{now}, synchronised")
    else:
        remedy = "timedatectl set-ntp true, or chrony with a server of the plant"
        yield Finding("clock", "warning", f"{now}, not synchronised", remedy)


def watchdog(unit: Unit | None) -> Iterator[Finding]:
    """Does systemd start a stuck agent again?"""
    import subprocess

    name = unit.name if unit is not None else "weldwatch.service"

    if not _BOOTED.is_dir() or shutil.which("systemctl") is None:
        yield Finding("service", "ok", "unknown: no systemd here; without it nothing starts a stuck agent again")
        return
    command = ["systemctl", "show", name, "--property=LoadState,UnitFileState,WatchdogUSec"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        yield Finding("service", "ok", "unknown: systemd does not answer")
        return
    told = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    if told.get("LoadState") != "loaded":
        yield Finding("service", "warning", f"there is no {name}", "install it, or start the agent some other way")
    elif told.get("UnitFileState") not in ("enabled", "enabled-runtime"):
        yield Finding("service", "warning", f"{name} does not start at boot", f"systemctl enable --now {name}")
    elif told.get("WatchdogUSec") in ("0", "infinity", "", None):
        yield Finding("service", "warning", "no watchdog", "WatchdogSec=60 in the unit")
    else:
        yield Finding("service", "ok", f"{name} starts at boot, watchdog after {told['WatchdogUSec']}")
