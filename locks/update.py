"""Write the lock files anew: `make lock` (needs uv, which is installed for it).

For each Python and each set one file, every version pinned, every artefact hashed, no index address. uv resolves for
all platforms at once; what its markers keep for another Python is left out: a file reads as what it installs. A version
that still fits stays as it is, so that a new dependency moves nothing else; `make lock LOCK=--upgrade` moves all.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from locks.reading import HERE, PYTHONS

#: What each set holds beside the agent itself: ``matrix`` tests the agent alone, ``test`` everything.
SETS = {
    "demo": ("demo",),
    "training": ("demo", "training"),
    "docs": ("demo", "docs", "sbom"),
    "matrix": ("demo", "camera", "genicam", "dev"),
    "test": ("demo", "camera", "genicam", "training", "dev", "docs", "sbom"),
}


def main() -> int:
    """All files; stops at the first that does not resolve."""
    parser = argparse.ArgumentParser(description="Write the lock files anew, for each Python and each set.")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions, not those of the last lock")
    upgrade = parser.parse_args().upgrade
    for python in PYTHONS:
        for name, extras in SETS.items():
            project = (str(HERE.parent / "pyproject.toml"), *(f"--extra={extra}" for extra in (*extras, "build")))
            write(name, python, *project, upgrade=upgrade)
        write("audit", python, "--group", f"{HERE.parent / 'pyproject.toml'}:audit", upgrade=upgrade)
    return 0


def write(name: str, python: str, *wanted: str, upgrade: bool = False) -> None:
    """One file: what uv resolves for ``wanted``, with hashes and markers; versions of the file that is there stay
    where they fit, but for ``upgrade``.
    """
    path = HERE / f"{name}-{python}.txt"
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as pins:
        if path.exists() and not upgrade:
            pins.write(path.read_text(encoding="utf-8"))
            pins.flush()
        # uv keeps to what the output file names already; it is a copy, since uv writes it before markers are cleared.
        command = ["uv", "pip", "compile", "--quiet", "--python-version", python, "--universal", "--generate-hashes",
                   "--no-emit-index-url", "--no-header", "--no-annotate", "--output-file", pins.name,
                   *wanted]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        text = for_python(Path(pins.name).read_text(encoding="utf-8"), python)
    head = f"# weldwatch, set {name!r}, Python {python}: written by locks/update.py, not by hand\n"
    path.write_text(head + text, encoding="utf-8")
    print(f"{name}-{python}.txt: {text.count('==')} packages")


def for_python(text: str, python: str) -> str:
    """Leave out what is for other Pythons only. Other markers (platform, patch release) stay."""
    from packaging.markers import Marker

    kept = []
    for entry in re.split(r"\n(?=\S)", text.strip()):
        marker = re.search(r" ; (.*?) \\", entry)
        if marker is None or any(Marker(marker[1]).evaluate(one) for one in environments(python)):
            kept.append(entry)
    return "\n".join(kept) + "\n"


def environments(python: str) -> Iterator[dict[str, str]]:
    """What markers are asked about, for CPython on Linux. Some packages want a later patch release of a Python."""
    for release, machine in product((f"{python}.0", f"{python}.99"), ("x86_64", "aarch64")):
        yield {
            "python_full_version": release,
            "python_version": python,
            "platform_machine": machine,
            "sys_platform": "linux",
            "platform_system": "Linux",
            "os_name": "posix",
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
        }


if __name__ == "__main__":
    sys.exit(main())
