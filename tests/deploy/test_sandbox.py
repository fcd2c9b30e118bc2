"""What ``weldwatch check`` says a unit keeps from its service is what systemd keeps from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cli import service
from agent.cli.check import sandbox
from agent.cli.check.places import Place
from tests.deploy.machine import Machine
from tests.docs.pages import ROOT

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(600)]

PATHS = ("/srv/cam", "/home/ftp/cam", "/root/keys", "/tmp/cam", "/var/tmp/cam", "/var/lib/weldwatch/captures",
         "/var/lib/other", "/etc/weldwatch", "/opt/x", "/data/results", "/usr/share/x", "/boot/x")  # fmt: skip
DROP_INS = (
    "",
    "ReadWritePaths=/srv/cam /data",
    "ProtectHome=read-only",
    "ProtectHome=read-only\nReadWritePaths=/home/ftp/cam",
    "ReadWritePaths=-/home/ftp/cam",
    "ProtectHome=tmpfs\nBindPaths=/home/ftp/cam",
    "ProtectHome=no\nProtectSystem=full",
    "ProtectSystem=yes",
    "PrivateTmp=no",
    "ReadWritePaths=-/var/tmp/cam",
    "InaccessiblePaths=/srv\nReadWritePaths=-/srv/cam",
    "TemporaryFileSystem=/srv\nBindPaths=/srv/cam",
    "TemporaryFileSystem=/srv\nReadWritePaths=-/srv/cam",
    "ReadOnlyPaths=/var/lib/weldwatch/captures",
    "ReadWritePaths=/srv/cam\nReadOnlyPaths=/srv/cam",
    "ReadOnlyPaths=/srv\nReadWritePaths=/srv/cam",
    "BindReadOnlyPaths=/srv/cam:/opt/x",
    "ReadWritePaths=/srv/cam\nReadWritePaths=\nReadOnlyPaths=/var/lib/weldwatch",
)
TRY = """\
for path in {paths}; do
  seen=no; written=no
  test -e $path/here && seen=yes
  test $seen = yes && touch $path/.tried 2>/dev/null && rm $path/.tried && written=yes
  echo "$path $seen $written"
done
echo "clock $(timedatectl show --property=NTPSynchronized --value)"
"""


@pytest.fixture(scope="module")
def machine(debian: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A bare Debian with each of the paths, and our unit with a script for a command."""
    bare = Machine(tmp_path_factory.mktemp("sandbox") / "root", debian)
    unit = (ROOT / "systemd" / "weldwatch.service").read_text(encoding="utf-8")
    changes = {"User=weldwatch": "User=root", "Group=weldwatch": "Group=root", "Type=notify": "Type=oneshot",
               "Restart=always": "Restart=no"}  # fmt: skip
    lines = [
        changes.get(line, line) for line in unit.splitlines() if not line.startswith(("ExecStart=", "WatchdogSec="))
    ]
    run = ["[Service]", "ExecStart=/bin/sh /usr/local/bin/try", "StandardOutput=truncate:/run/tried"]
    folder = bare.root / "etc/systemd/system"
    (folder / "weldwatch.service").write_text("\n".join([*lines, *run, ""]))
    (bare.root / "usr/local/bin/try").write_text(TRY.format(paths=" ".join(PATHS)))
    with bare as running:
        running.sh("".join(f"mkdir -p {path} && touch {path}/here\n" for path in PATHS))
        yield running


@pytest.mark.parametrize("drop_in", DROP_INS)
def test_every_verdict_is_systemds(machine: Machine, drop_in: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = machine.root / "etc/systemd/system/weldwatch.service.d"
    folder.mkdir(exist_ok=True)
    (folder / "paths.conf").write_text(f"[Service]\n{drop_in}\n")
    machine.sh("systemctl daemon-reload && systemctl start weldwatch")
    tried = dict(line.split(" ", 1) for line in machine.sh("cat /run/tried").stdout.splitlines())
    assert tried.pop("clock") in ("yes", "no"), "the service can ask systemd for it"

    monkeypatch.setattr(service, "FOLDERS", [machine.root / "etc/systemd/system"])
    unit = service.unit_of(Path("/etc/weldwatch/agent.yaml"))
    assert unit is not None
    rules = list(sandbox._rules(unit))
    told = {
        path: " ".join(
            "no" if sandbox._barred(Place("x", path, need), unit, rules) else "yes" for need in ("read", "write")
        )
        for path in PATHS
    }
    assert told == tried
