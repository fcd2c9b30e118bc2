"""What docs/security.md promises of the network and nobody else tests."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

from agent.demo.broker import EmbeddedBroker
from tests.support.bundles import flat_png
from tests.support.station import Station

_LISTENING = "0A"


def listeners(inodes: set[str] | None = None) -> set[tuple[str, int]]:
    """(address, port) of TCP sockets that listen, all or those of some inodes, as /proc/net tells (proc(5))."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING and (inodes is None or fields[9] in inodes):
                address, _, port = fields[1].partition(":")
                found.add((address, int(port, 16)))
    return found


def sockets_of(pid: int) -> set[str]:
    """Inodes of a process's sockets."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile: it was no port that stays open
            found.add(link.readlink().name)
    return {name.removeprefix("socket:[").rstrip("]") for name in found if name.startswith("socket:[")}


def test_the_embedded_broker_listens_on_loopback_only() -> None:
    with EmbeddedBroker() as broker:
        assert {address for address, port in listeners() if port == broker.port} == {"0100007F"}


def test_the_agent_opens_no_port(tmp_path: Path) -> None:
    station = Station(tmp_path)
    with station.running() as agent:
        station.put("A.png", flat_png(100))
        station.wait_for(1)
        assert listeners(sockets_of(agent.pid)) == set()


def test_the_agent_loads_nothing_of_training(tmp_path: Path) -> None:
    station = Station(tmp_path)
    station.put("A.png", flat_png(100))
    code = (
        "import sys; from agent.cli.main import main; code = main(sys.argv[1:]); "
        "print(code, sorted({name.partition('.')[0] for name in sys.modules} & "
        "{'tensorflow', 'keras', 'tf2onnx', 'onnx', 'sklearn', 'matplotlib', 'training', 'cv2'}))"
    )
    command = [sys.executable, "-c", code, "run", "--once", "--config", str(station.file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "0 []", done.stderr
    assert len(station.files()) == 1
