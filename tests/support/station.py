"""A real station for tests: folders, configuration, and the agent as a process that can be stopped and killed."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.support.bundles import brightness_bundle

WELDWATCH = (sys.executable, "-m", "agent.cli.main")


def weldwatch(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    command = [*WELDWATCH, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


def until(condition: Callable[[], Any], what: str, within_s: float = 30.0) -> Any:
    """Look at another process until ``condition`` holds; its value. No event reaches across to wait for."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"not within {within_s:g} s: {what}")


class Station:
    """Folders below ``root`` and a configuration; ``start`` gives the agent's process."""

    def __init__(self, root: Path, **changes: Any) -> None:
        self.root, self.captures, self.results = root, root / "captures", root / "results"
        self.captures.mkdir(parents=True, exist_ok=True)
        self.log = root / "agent.log"
        bundle = root / "brightness-1.0.0.pipeline"
        if "bundle" not in changes:
            brightness_bundle(bundle)
        self.settings: dict[str, Any] = {
            "station": {"name": "cam-07"},
            "state": str(root / "state"),
            "bundle": {"initial": str(bundle)},
            "sources": [{"type": "folder", "name": "captures", "path": str(self.captures), "settle_s": 0.1}],
            "results": {"directory": str(self.results), "min_free_mb": 0},
            **changes,
        }
        self.topic = f"weldwatch/plant/site/area/line/{self.settings['station']['name']}"
        self.file = root / "agent.yaml"
        self.write()

    def write(self) -> None:
        """Put the settings into the file."""
        self.file.write_text(yaml.safe_dump(self.settings), encoding="utf-8")

    def put(self, name: str, data: bytes) -> Path:
        """Deliver an image as a careful client does: whole, then renamed."""
        target = self.captures / name
        target.parent.mkdir(parents=True, exist_ok=True)
        hidden = target.with_name(f".{target.name}.part")
        hidden.write_bytes(data)
        return hidden.rename(target)

    def once(self) -> subprocess.CompletedProcess[str]:
        """``weldwatch run --once``."""
        return weldwatch("run", "--once", "--config", self.file)

    def start(self, under: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """The agent in the background, its command after the words ``under``; its log is appended to ``log``."""
        with self.log.open("ab") as log:
            return subprocess.Popen([*under, *WELDWATCH, "run", "--config", str(self.file)], stdout=log, stderr=log)

    @contextlib.contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """The agent while the block lasts; ends it by SIGTERM and wants exit code 0."""
        said = self.log.stat().st_size if self.log.exists() else 0
        process = self.start()
        try:
            until(
                lambda: process.poll() is not None or b" watches " in self.log.read_bytes()[said:], "the agent to start"
            )
            assert process.poll() is None, self.log.read_text()
            yield process
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0, self.log.read_text()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    def files(self) -> list[dict[str, Any]]:
        """All results on disk, one a file."""
        return [json.loads(path.read_bytes()) for path in sorted(self.results.glob("*/*.json"))]

    def lines(self) -> list[dict[str, Any]]:
        """All results of the daily logs, in their order."""
        days = sorted(self.results.glob("*.jsonl"))
        return [json.loads(line) for day in days for line in day.read_bytes().splitlines()]

    def wait_for(self, count: int, within_s: float = 60.0) -> list[dict[str, Any]]:
        """Wait until the daily logs have ``count`` lines."""

        def enough() -> bool:
            return sum(path.read_bytes().count(b"\n") for path in self.results.glob("*.jsonl")) >= count

        until(enough, f"{count} results of station {self.settings['station']['name']}", within_s)
        return self.lines()


def memory_mb(pid: int, field: str = "VmRSS") -> float:
    """Resident memory of a process in megabytes (10^6 bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise AssertionError(f"{field} of {pid}")
