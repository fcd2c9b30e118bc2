"""What belongs to the machine: disks and how long they last, clock, inotify, the service's watchdog.

What cannot be told here (in a container, on a file system that does not say) is said to be unknown, never guessed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli.check.finding import Finding, State, nearest

if TYPE_CHECKING:
    from agent.config import AgentConfig

WRITTEN_KB = 40  #: to disk a result, at most, at one a second (docs/operations.md, "How much space")
#: What 32 GB of industrial eMMC stand at least, written by an application: 3000 erasures of each cell, of which the
#: controller's own writing (small synced writes) takes four fifths.
EMMC_TB = 20.0
_YEARS_WANTED = 5.0
_FOLDERS_LOOKED_AT = 100_000
_UNIT = "weldwatch.service"


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
    from agent.errors import RetryError, UsageError
    from agent.ledger.reader import Reader

    now = SystemClock().now()
    since, until = iso_utc(now - timedelta(days=1)), iso_utc(now + timedelta(days=1))
    cameras = {source.name for source in config.sources if isinstance(source, CameraConfig)}
    try:
        with Reader(Path(config.state)) as ledger:
            _, _, count = ledger.span(since, until)
            images = [json.loads(one.body)["image"] for one in ledger.results(since=since, newest=200)]
    except (UsageError, RetryError):
        return None
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


def inotify(config: AgentConfig) -> Iterator[Finding]:
    """One watch a folder: are there enough?"""
    from agent.config import FolderConfig

    roots = [Path(source.path) for source in config.sources if isinstance(source, FolderConfig)]
    if not roots:
        return
    try:
        limit = int(Path("/proc/sys/fs/inotify/max_user_watches").read_text(encoding="ascii"))
        instances = int(Path("/proc/sys/fs/inotify/max_user_instances").read_text(encoding="ascii"))
    except (OSError, ValueError):
        yield Finding("inotify", "ok", "limits unknown here; rescan_s finds files without it")
        return
    folders = sum(_folders_below(root) for root in roots if root.is_dir())
    detail = f"{folders} folders to watch, {limit} watches and {instances} instances a user"
    state: State = "ok"
    remedy = ""
    if folders > limit * 0.8:
        state, remedy = (
            "warning",
            f"sysctl fs.inotify.max_user_watches={folders * 4}; till then files wait for rescan_s",
        )
    elif instances < 16:
        state, remedy = "warning", "sysctl fs.inotify.max_user_instances=128"
    yield Finding("inotify", state, detail, remedy)


def _folders_below(root: Path) -> int:
    count = 0
    for count, _ in enumerate(os.walk(root), 1):  # the count is the result
        if count >= _FOLDERS_LOOKED_AT:
            break
    return count


def watchdog(_: AgentConfig) -> Iterator[Finding]:
    """Does systemd start a stuck agent again?"""
    import subprocess

    if not Path("/run/systemd/system").is_dir() or shutil.which("systemctl") is None:
        yield Finding("service", "ok", "unknown: no systemd here; without it nothing starts a stuck agent again")
        return
    command = ["systemctl", "show", _UNIT, "--property=LoadState,UnitFileState,WatchdogUSec"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        yield Finding("service", "ok", "unknown: systemd does not answer")
        return
    told = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    if told.get("LoadState") != "loaded":
        yield Finding("service", "warning", f"there is no {_UNIT}", "install it, or start the agent some other way")
    elif told.get("UnitFileState") not in ("enabled", "enabled-runtime"):
        yield Finding("service", "warning", f"{_UNIT} does not start at boot", "systemctl enable --now weldwatch")
    elif told.get("WatchdogUSec") in ("0", "infinity", "", None):
        yield Finding("service", "warning", "no watchdog", "WatchdogSec=60 in the unit")
    else:
        yield Finding("service", "ok", f"starts at boot, watchdog after {told['WatchdogUSec']}")
