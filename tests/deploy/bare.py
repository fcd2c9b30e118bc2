"""The bare Debian as a tar file, which every machine is unpacked from: fetched once a checkout, from the mirror.

    mirror ─▶ .cache/debs/ ─debootstrap─▶ .cache/debootstrap/ ─tar─▶ .cache/debian-<suite>.tar

Invariants: one process makes it, others wait for it; under its name there is only a whole one. What debootstrap mounts
and starts is in name spaces of its own, so it is gone with debootstrap, however that ends. An attempt that fails leaves
the packages that it has fetched to the next one, and nothing else.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

SUITE = "bookworm"
PACKAGES = "python3-venv,systemd,systemd-sysv,dbus"
WAITS_S = (5, 15, 30, 60, 90, 100)  #: between attempts: a mirror in renewal is whole again within minutes
ATTEMPTS_END_S = 600  #: for all of them: the test that waits for it has fifteen minutes

# Private mounts and processes, which end with whoever has started them: also when that is killed.
ALONE = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", "--pid", "--fork",
         "--kill-child", "--mount-proc")  # fmt: skip


def base(cache: Path, debootstrap: Sequence[str] = ("debootstrap",), waits_s: Sequence[float] = WAITS_S) -> Path:
    """The tar file in ``cache``; made where it is missing or not whole, in about a minute."""
    cache.mkdir(exist_ok=True)
    made = cache / f"debian-{SUITE}.tar"
    with (cache / "debian.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_whole(made):
            work = cache / "debootstrap"
            try:
                _fetch(work, cache / "debs", debootstrap, waits_s)
                _pack(work, made)
            finally:
                remove(work)
            shutil.rmtree(cache / "debs")
    return made


def is_whole(tar: Path) -> bool:
    """Whether it is there and has the two blocks of zeros that end a tar file."""
    if not tar.exists() or tar.stat().st_size < 1024:
        return False
    with tar.open("rb") as file:
        file.seek(-1024, os.SEEK_END)
        return file.read() == bytes(1024)


def remove(folder: Path) -> None:
    """A folder with all that is below it, also where a run that was killed has left something mounted there."""
    mounts = (line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines())
    below = [mount.encode().decode("unicode_escape") for mount in mounts]  # a space is told as \040
    for mount in sorted((one for one in below if one.startswith(f"{folder.resolve()}/")), reverse=True):
        if subprocess.run(["umount", mount], capture_output=True, timeout=60, check=False).returncode:
            subprocess.run(["umount", "--lazy", mount], timeout=60, check=True)
    subprocess.run(["rm", "-rf", str(folder)], timeout=120, check=True)


def _fetch(work: Path, debs: Path, debootstrap: Sequence[str], waits_s: Sequence[float]) -> None:
    """Attempts until one leads to a whole system; the last one's own words when none does."""
    debs.mkdir(exist_ok=True)
    command = [*ALONE, *debootstrap, "--variant=minbase", f"--include={PACKAGES}", f"--cache-dir={debs.resolve()}",
               SUITE, str(work.resolve())]  # fmt: skip
    # As a login of root has it: what the one who runs the tests has set must not come into the system.
    proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    environment = {**proxies, "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                   "HOME": "/root", "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}  # fmt: skip
    end = time.monotonic() + ATTEMPTS_END_S
    for wait_s in (*waits_s, None):
        remove(work)
        work.mkdir()
        said = _attempt(command, environment, end - time.monotonic())
        if said is None:
            return
        if wait_s is None or time.monotonic() + wait_s >= end:
            break
        time.sleep(wait_s)  # for a server far away; nothing here tells when it is well again
    own = work / "debootstrap" / "debootstrap.log"
    log = own.read_text(errors="replace") if own.exists() else "it has left no log"
    raise RuntimeError(f"no bare Debian for the tests of deploy: debootstrap fails again and again\n{said[-1500:]}\n"
                       f"--- {own}\n{log[-3000:]}")  # fmt: skip


def _attempt(command: Sequence[str], environment: dict[str, str], timeout_s: float) -> str | None:
    """None when it has worked, else what was said."""
    try:
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                              stderr=subprocess.STDOUT, errors="replace", timeout=timeout_s, check=False)  # fmt: skip
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""
        return f"{said.decode(errors='replace') if isinstance(said, bytes) else said}\nnot done in {timeout_s:.0f} s"
    return None if done.returncode == 0 else f"{done.stdout}\nit ended with {done.returncode}"


def _pack(work: Path, made: Path) -> None:
    """On the disk before it has its name: a cut of power leaves the whole file or none."""
    for deb in (work / "var/cache/apt/archives").glob("*.deb"):
        deb.unlink()
    part = made.with_suffix(".part")
    subprocess.run(["tar", "-C", str(work), "-cf", str(part), "."], timeout=300, check=True)
    subprocess.run(["sync", str(part)], timeout=300, check=True)
    part.rename(made)
