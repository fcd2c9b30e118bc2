"""A watched folder, its sources, and a ledger of seen keys in memory."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from PIL import Image

from agent.clock import SystemClock
from agent.config import FolderConfig
from agent.health import Health
from agent.sources.folder import FolderSource
from tests.support.running import MemoryLedger, RunningSource


class Running(RunningSource):
    """A folder source at work."""

    def __init__(
        self, config: FolderConfig, ledger: MemoryLedger, zone: str = "UTC", *, release: bool = True, once: bool = False
    ) -> None:
        health = Health()
        source = FolderSource(config, ZoneInfo(zone), ledger, health, SystemClock())
        super().__init__(source, health, ledger, once=once, release=release)


class Bench:
    """Starts sources on one capture folder, one after the other, with one ledger."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.captures, self.archive, self.rejected = (folder / name for name in ("captures", "archive", "rejected"))
        self.captures.mkdir()
        self.ledger = MemoryLedger()
        self.running: list[Running] = []

    def config(self, **keys: Any) -> FolderConfig:
        quick = {"settle_s": 0.1, "rescan_s": 30.0, "incomplete_s": 0.6}
        return FolderConfig(**{"name": "captures", "path": str(self.captures), **quick, **keys})

    def start(self, *, zone: str = "UTC", release: bool = True, **keys: Any) -> Running:
        self.running.append(Running(self.config(**keys), self.ledger, zone, release=release))
        return self.running[-1]

    def watch(self, **keys: Any) -> Running:
        """Start, and wait until it watches."""
        running = self.start(**keys)
        running.until(lambda: running.source.state()["state"] != "starting")
        return running

    def once(self, **keys: Any) -> Running:
        self.running.append(Running(self.config(**keys), self.ledger, once=True))
        self.running[-1].join()
        return self.running[-1]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    for running in bench.running:
        running.stop()


def encoded(
    form: str = "PNG", level: int = 90, size: tuple[int, int] = (24, 16), mode: str = "L", **options: Any
) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, level).save(stream, form, **options)
    return stream.getvalue()


@pytest.fixture(scope="session")
def png() -> bytes:
    return encoded()


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    return encoded
