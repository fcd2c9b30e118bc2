"""Write the lock files anew: `make lock` (needs uv, which is installed for it).

For each Python and each set one file, every version pinned, every artefact hashed, no index address. uv resolves for
all platforms at once; what its markers keep for another Python is left out: a file reads as what it installs.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
SETS = {"demo": ("demo",), "training": ("demo", "training"), "test": ("demo", "camera", "genicam", "training", "dev")}
HERE = Path(__file__).parent


def main() -> int:
    """All files; stops at the first that does not resolve."""
    for python in PYTHONS:
        for name, extras in SETS.items():
            text = for_python(compiled(python, extras), python)
            head = f"# weldwatch, set {name!r}, Python {python}: written by locks/update.py, not by hand\n"
            (HERE / f"{name}-{python}.txt").write_text(head + text, encoding="utf-8")
            print(f"{name}-{python}.txt: {text.count('==')} packages")
    return 0


def compiled(python: str, extras: tuple[str, ...]) -> str:
    """What uv resolves, with hashes and markers."""
    command = ["uv", "pip", "compile", "--quiet", str(HERE.parent / "pyproject.toml"), "--python-version", python,
               "--universal", "--generate-hashes", "--no-emit-index-url", "--no-header", "--no-annotate",
               *(f"--extra={extra}" for extra in (*extras, "build"))]  # fmt: skip
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def for_python(text: str, python: str) -> str:
    """Leave out what is for other Pythons only. Other markers (platform) stay."""
    from packaging.markers import Marker

    kept = []
    for entry in re.split(r"\n(?=\S)", text.strip()):
        marker = re.search(r" ; (.*?) \\", entry)
        if marker is None or any(Marker(marker[1]).evaluate(environment(python, one)) for one in ("x86_64", "aarch64")):
            kept.append(entry)
    return "\n".join(kept) + "\n"


def environment(python: str, machine: str) -> dict[str, str]:
    """What markers are asked about, for CPython on Linux."""
    return {
        "python_full_version": f"{python}.9",
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
