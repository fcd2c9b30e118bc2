"""Killed anywhere, again and again: every file has one result, and lies where it belongs."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

CHILD = Path(__file__).with_name("killed_agent.py")


def test_each_file_once_whatever_is_killed_when(bench, png):
    files, kills = 300, 8
    ledger, rng = bench.folder / "ledger", random.Random(files)
    command = [sys.executable, str(CHILD), *map(str, (bench.captures, bench.archive, bench.rejected, ledger))]

    def deliver() -> None:
        for number in range(files):
            path = bench.captures / f"part{number % 7}" / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(png if number % 10 else b"no image")
            time.sleep(kills * 0.4 / files)  # spread over the kills

    camera = threading.Thread(target=deliver)
    camera.start()
    for _ in range(kills):
        with subprocess.Popen(command) as agent:
            time.sleep(0.3 + rng.random() * 0.5)
            agent.kill()
    camera.join()
    time.sleep(0.1)  # past the settling of the last file
    subprocess.run([*command, "once"], check=True, timeout=120)
    lines = [line.split() for line in ledger.read_text().splitlines()]
    assert Counter(name for _, name, _ in lines) == Counter(f"part{number % 7}/{number}.png" for number in range(files))
    good = {f"part{number % 7}/{number}.png" for number in range(files) if number % 10}
    bad = {f"part{number % 7}/{number}.png" for number in range(0, files, 10)}

    def below(folder: Path) -> set[str]:
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    assert below(bench.captures) == set()
    assert below(bench.archive) == good
    assert below(bench.rejected) == bad | {f"{name}.reason.json" for name in bad}
    assert {path.read_bytes() for path in bench.archive.rglob("*.png")} == {png}
