"""Write the bill of materials of a station: `make sbom`. CycloneDX 1.6, from the lock file, without a network.

Holds every package that `locks/demo-<Python>.txt` installs, with its version, the hashes of the artefacts that may be
installed, its licence as the installed package tells it, and what needs what. The same lock and the same environment
give the same bytes: no time and no machine stands in it. It is checked against CycloneDX's schema before it is written.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import uuid
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from locks.reading import Locked, installed, licence, read

SET, EXTRAS = "demo", ("", "demo", "build")  #: what deploy installs


def main(arguments: Sequence[str] | None = None) -> int:
    """Write it into a folder; the last line says where."""
    parser = argparse.ArgumentParser(description="Write the bill of materials of a station (CycloneDX, JSON).")
    parser.add_argument("--out", type=Path, default=Path("build/sbom"), help="folder (default build/sbom)")
    folder = parser.parse_args(arguments).out
    bom = bill()
    text = written(bom)
    problem = invalid(text)
    if problem:
        sys.stderr.write(f"sbom: not valid CycloneDX: {problem}\n")
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file_name(bom)
    path.write_text(text, encoding="utf-8")
    print(f"{path}: {len(bom['components'])} packages")
    return 0


def file_name(bom: dict[str, Any]) -> str:
    """It says of what it is."""
    return f"weldwatch-{bom['metadata']['component']['version']}-python{python_here()}.cdx.json"


def written(bom: dict[str, Any]) -> str:
    """As text."""
    return json.dumps(bom, indent=1, ensure_ascii=False) + "\n"


def invalid(text: str) -> str:
    """What CycloneDX's own schema has against it; empty where nothing."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    return "" if problem is None else str(problem)


def python_here() -> str:
    """The Python whose lock file is meant: the one that runs this."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def bill() -> dict[str, Any]:
    """The whole document."""
    packages = read(SET, python_here())
    known = {one.name: _ref(one) for one in packages}
    own = {"type": "application", "bom-ref": "weldwatch", "name": "weldwatch", "version": metadata.version("weldwatch"),
           "licenses": [{"expression": "Apache-2.0"}]}  # fmt: skip
    digest = hashlib.sha256(json.dumps([own["version"], python_here(), *map(repr, packages)]).encode()).digest()
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.UUID(bytes=digest[:16], version=4)}",
        "version": 1,
        "metadata": {"component": own, "properties": [{"name": "weldwatch:python", "value": python_here()}]},
        "components": [_component(one) for one in packages],
        "dependencies": [
            {"ref": "weldwatch", "dependsOn": _needs(metadata.metadata("weldwatch"), EXTRAS, known)},
            *({"ref": _ref(one), "dependsOn": _needs(installed(one), ("",), known)} for one in packages),
        ],
    }


def _ref(one: Locked) -> str:
    return f"pkg:pypi/{one.name}@{one.version}"


def _component(one: Locked) -> dict[str, Any]:
    """One package. Its licence is only known where it is installed, and its marker says where it would not be."""
    part: dict[str, Any] = {"type": "library", "bom-ref": _ref(one), "name": one.name, "version": one.version}
    about = installed(one)
    if about is not None:
        told, is_spdx = licence(about)
        part["licenses"] = [{"expression": told} if is_spdx else {"license": {"name": told}}]
    part["hashes"] = [{"alg": "SHA-256", "content": value} for value in one.hashes]
    part["purl"] = _ref(one)
    if one.marker:
        part["properties"] = [{"name": "weldwatch:only-where", "value": one.marker}]
    return part


def _needs(about: metadata.PackageMetadata | None, extras: Sequence[str], known: dict[str, str]) -> list[str]:
    """What a package asks for, of what is locked, under any of these extras."""
    asked = [Requirement(line) for line in (about.get_all("Requires-Dist") if about else None) or []]
    wanted = {
        canonicalize_name(one.name)
        for one in asked
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in extras)
    }
    return sorted(known[name] for name in wanted if name in known)


if __name__ == "__main__":
    sys.exit(main())
