"""``weldwatch check``: an archive that nobody empties."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.cli.check import examine
from agent.config import load
from tests.support.station import Station


@pytest.mark.parametrize(
    ("keys", "warned"),
    [
        ({"after": "archive"}, True),
        ({"after": "keep"}, False),
        ({"after": "archive", "archive_keep_days": 30}, False),
        ({"after": "archive", "archive_keep_gb": 5}, False),
    ],
)
def test_an_archive_without_a_limit_is_warned_of(tmp_path: Path, keys: dict[str, Any], warned: bool) -> None:
    station = Station(tmp_path / "s")
    station.settings["sources"][0] |= {"archive": str(tmp_path / "s/archive"), **keys}
    station.write()
    found = {finding.name: finding for finding in examine(load(station.file), str(station.file))}
    assert ("sources[0].archive_keep_days" in found) is warned
    if warned:
        finding = found["sources[0].archive_keep_days"]
        assert (finding.state, "has no limit" in finding.detail) == ("warning", True)
