"""A station's bundles without the station: what judges is seen, nothing is inspected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from agent import config
from agent.app.bundles import Bundles
from agent.clock import Clock, SystemClock
from agent.health import Health


def settings(root: Path, **bundle: Any) -> config.AgentConfig:
    """The smallest configuration with this ``bundle`` section."""
    plain = {
        "station": {"name": "cam-07"},
        "state": str(root / "state"),
        "sources": [{"type": "folder", "name": "captures", "path": str(root / "captures")}],
        "results": {"directory": str(root / "results")},
        "bundle": {key: str(value) if isinstance(value, Path) else value for key, value in bundle.items()},
    }
    return config.parse(msgspec.json.encode(plain).decode())  # JSON is YAML


def bundles(root: Path, clock: Clock | None = None, **bundle: Any) -> tuple[Bundles, Health]:
    """Started, as the agent does it."""
    health = Health()
    return Bundles(settings(root, **bundle), health, clock or SystemClock()), health
