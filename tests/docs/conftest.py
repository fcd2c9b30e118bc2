"""A place where the commands of the documentation mean what they say: a station, images, bundles, a broker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from PIL import Image

from agent.bundle import signature
from agent.bundle.archive import Archive, write_signed
from agent.demo.scene import recording, render
from agent.model.store import SHIPPED, Store
from tests.docs.pages import blocks
from tests.support.bundles import brightness_bundle, flat_png
from tests.support.mosquitto import Mosquitto
from tests.support.station import until, weldwatch

BIN = Path(sys.prefix) / "bin"


@dataclass
class Place:
    """Where commands run, and how."""

    root: Path
    port: int

    def shell(self, line: str) -> list[str]:
        """The line as a shell would run it, with what cannot be the same everywhere put in its place."""
        return ["bash", "-euo", "pipefail", "-c", self.here(line)]

    def here(self, text: str) -> str:
        return text.replace("broker.example", "127.0.0.1")

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "TMPDIR": str(self.root / "tmp")}

    def start(self, line: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.shell(line), cwd=self.root, env=self.environment, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, line: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        process = self.start(line)
        out, err = process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(line, process.returncode, out, err)


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Everything that the commands name, after one ``run --once``; the broker has the access list of the page."""
    root = tmp_path_factory.mktemp("docs")
    for folder in ("captures", "config", "tmp", "trained", "keys", "trusted"):
        (root / folder).mkdir()
    (root / ".venv").symlink_to(sys.prefix)
    for number, name in enumerate(("testDefectImage.PNG", "weld.png", "captures/A17_J9_0042.png")):
        Image.fromarray(render(recording(4), number % 2, 3)).save(root / name)
    (root / "captures" / "A18_J9_0001.png").write_bytes(flat_png(128)[:40])
    _bundle(root, root / "trained" / "al5083-1.0.0.pipeline")
    (acl,) = (block for block in blocks("topics.md", "text") if "topic write" in block)
    # Whoever only looks is nobody in particular; the station and the consumer are those of the page.
    (root / "acl").write_text(f"topic read weldwatch/#\n{acl}", encoding="utf-8")
    with Mosquitto(root / "broker", lines=[f"acl_file {root / 'acl'}"]) as broker:
        _configure(root, broker.port)
        done = weldwatch("run", "--once", "--config", root / "config" / "agent.yaml")
        assert done.returncode == 0, done.stderr
        yield Place(root, broker.port)


def _bundle(root: Path, path: Path) -> None:
    """Made, signed, installed and once active: each command about bundles works by itself, in any order."""
    brightness_bundle(path, name="al5083")
    signature.generate(root / "keys" / "line-3").replace(root / "trusted" / "line-3.pub")
    with Archive(path) as archive:
        write_signed(archive, path, signature.sign(archive, root / "keys" / "line-3"))
    store = Store(root / "state")
    for name in (store.install(path), SHIPPED):
        store.activate(name)


def _configure(root: Path, port: int) -> None:
    settings = {
        "station": {"enterprise": "acme", "site": "detroit", "area": "body", "line": "line-3", "name": "cam-07"},
        "state": str(root / "state"),
        "sources": [
            {
                "type": "folder", "name": "captures", "path": str(root / "captures"),
                "settle_s": 0.0, "incomplete_s": 0.0,
                "name_pattern": "(?P<part_id>[^_]+)_(?P<job_id>[^_]+)_(?P<frame>[0-9]+)",
            }
        ],
        "results": {"directory": str(root / "results"), "min_free_mb": 0},
        "mqtt": {"host": "127.0.0.1", "port": port, "username": "cam-07"},
    }  # fmt: skip
    (root / "config" / "agent.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")


@pytest.fixture(scope="class")
def line_running(place: Place) -> Iterator[Place]:
    """The agent runs, and a camera delivers a frame every fifth of a second."""
    log = place.root / "agent.log"
    with log.open("wb") as said:
        command = [sys.executable, "-m", "agent.cli.main", "run", "--config", str(place.root / "config" / "agent.yaml")]
        agent = subprocess.Popen(command, stdout=said, stderr=said)
    until(lambda: b"watches" in log.read_bytes(), "the agent to watch its folder", 30)  # and to heed its signals
    over = threading.Event()

    def camera() -> None:
        number = 100
        while not over.wait(0.2):
            number += 1
            hidden = place.root / "captures" / ".part"
            hidden.write_bytes(flat_png(number % 256))
            hidden.rename(place.root / "captures" / f"A17_J9_{number:04d}.png")

    thread = threading.Thread(target=camera)
    thread.start()
    try:
        yield place
    finally:
        over.set()
        thread.join()
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(30) == 0, log.read_text()
