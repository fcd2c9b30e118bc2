"""How the bare Debian is had when its mirror, the machine or the one before has failed; debootstrap is played here."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.deploy import bare

pytestmark = pytest.mark.root

# Like the real one: the target is the last argument; it mounts there, writes its log there, and fails as often as told.
PLAYED = """#!/bin/sh
for target; do :; done
here=$(dirname "$0")
echo run >> "$here/runs"
mkdir -p "$target/proc" "$target/debootstrap" "$target/var/cache/apt/archives"
mount -t proc proc "$target/proc"
echo "W: the mirror says 503" > "$target/debootstrap/debootstrap.log"
[ "$(wc -l < "$here/runs")" -gt FAILURES ] || { echo "E: Couldn't download packages"; exit 1; }
sleep 0.3
umount "$target/proc"
"""


def played(folder: Path, failures: int) -> list[str]:
    script = folder / "debootstrap.sh"
    script.write_text(PLAYED.replace("FAILURES", str(failures)))
    return ["sh", str(script)]


def runs(folder: Path) -> int:
    return len((folder / "runs").read_text().splitlines())


def mounted(folder: Path) -> bool:
    return str(folder) in Path("/proc/self/mounts").read_text()


def test_a_mirror_that_fails_is_asked_again(tmp_path: Path) -> None:
    made = bare.base(tmp_path / "cache", played(tmp_path, 2), (0, 0, 0))
    assert bare.is_whole(made)
    assert runs(tmp_path) == 3
    assert not mounted(tmp_path)
    assert sorted(one.name for one in made.parent.iterdir()) == ["debian-bookworm.tar", "debian.lock"]
    assert bare.base(tmp_path / "cache", played(tmp_path, 2)) == made
    assert runs(tmp_path) == 3, "it is there"


def test_a_mirror_that_stays_away_is_one_failure_with_debootstraps_own_log(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)no bare Debian.*Couldn't download packages.*the mirror says 503"):
        bare.base(tmp_path / "cache", played(tmp_path, 9), (0, 0))
    assert runs(tmp_path) == 3
    assert not mounted(tmp_path)
    assert not (tmp_path / "cache" / "debootstrap").exists()


def test_what_a_killed_run_has_left_mounted_is_in_nobodys_way(tmp_path: Path) -> None:
    left = tmp_path / "cache" / "debootstrap" / "a b"
    left.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(left)], check=True)
    (left / "proc").mkdir()
    subprocess.run(["mount", "-t", "proc", "proc", str(left / "proc")], check=True)
    try:
        assert bare.is_whole(bare.base(tmp_path / "cache", played(tmp_path, 0)))
        assert not mounted(tmp_path)
    finally:
        subprocess.run(["umount", "--lazy", "--recursive", str(left)], capture_output=True, check=False)


def test_half_a_file_is_made_anew(tmp_path: Path) -> None:
    made = bare.base(tmp_path / "cache", played(tmp_path, 0))
    whole = made.read_bytes()
    made.write_bytes(whole[: len(whole) // 4])
    assert bare.is_whole(bare.base(tmp_path / "cache", played(tmp_path, 0)))
    assert runs(tmp_path) == 2


def test_two_at_once_make_it_once(tmp_path: Path) -> None:
    command = played(tmp_path, 0)
    with ThreadPoolExecutor(2) as pool:
        one, other = (pool.submit(bare.base, tmp_path / "cache", command) for _ in range(2))
        assert one.result(60) == other.result(60)
    assert runs(tmp_path) == 1
