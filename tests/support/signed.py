"""A plant's key and bundles that it has signed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.bundle import signature
from agent.bundle.archive import Archive, write_signed
from tests.support.bundles import brightness_bundle


class Plant:
    """``keys`` is the folder that a station trusts; ``bundle`` makes signed ones."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.keys, self._key = folder, folder / "keys", folder / "plant"
        self.keys.mkdir(parents=True)
        signature.generate(self._key).rename(self.keys / "plant.pub")
        signature.generate(folder / "stranger")

    def bundle(self, version: str, *, key: str | None = "plant", **changes: Any) -> Path:
        """``brightness-<version>.pipeline``, signed by that key, or by nobody."""
        path = self.folder / f"brightness-{version}.pipeline"
        brightness_bundle(path, version=version, **changes)
        if key is not None:
            with Archive(path) as archive:
                write_signed(archive, path, signature.sign(archive, self.folder / key))
        return path
