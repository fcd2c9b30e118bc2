"""Freeze the state that this version leaves behind: run once at a release, and commit the file that it writes.

    python -m tests.upgrade.freeze          writes tests/upgrade/states/<version>.tar.xz

    state/      a ledger with 12 results, all on disk and none at the broker (which was away); a bundle that was
                installed and activated; the lock's file
    results/    the same 12 on disk, also as the list of what the broker must still get

The images are flat gray and the bundle judges by brightness: all of it is synthetic, and made here.
"""

from __future__ import annotations

import sys
import tarfile
import tempfile
from pathlib import Path

from agent import __version__
from tests.support.bundles import brightness_bundle, flat_png
from tests.support.ports import free_port
from tests.support.station import Station, weldwatch

STATES = Path(__file__).parent / "states"
RESULTS = 12


def main() -> None:
    """Write the file for the present version; refuses to replace one."""
    target = STATES / f"{__version__}.tar.xz"
    if target.exists():
        sys.exit(f"{target.name} is there already: a released state never changes")
    with tempfile.TemporaryDirectory() as folder:
        station = Station(
            Path(folder),
            bundle={"initial": "weld-demo"},
            mqtt={"host": "127.0.0.1", "port": free_port()},
        )
        brightness_bundle(station.root / "brightness.pipeline")
        for verb, what in (("install", station.root / "brightness.pipeline"), ("activate", "brightness-1.0.0")):
            done = weldwatch("bundle", verb, what, "--config", station.file)
            assert done.returncode == 0, done.stderr
        for number in range(RESULTS):
            station.put(f"A{number:02d}_J1_{number}.png", flat_png(20 * number))
        done = station.once()
        assert done.returncode == 1, done.stderr  # the broker is away
        assert len(station.lines()) == RESULTS
        STATES.mkdir(exist_ok=True)
        with tarfile.open(target, "w:xz") as archive:
            for name in ("results", "state"):
                archive.add(station.root / name, name, filter=_nobodys)


def _nobodys(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    main()
