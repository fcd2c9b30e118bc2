"""Real frames, where WELDWATCH_FIELD_DATA names a folder of them: every size and set through the running agent."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from tests.support.station import Station


@pytest.mark.field
def test_every_real_frame_is_inspected_by_the_running_agent(tmp_path: Path) -> None:
    root = Path(os.environ["WELDWATCH_FIELD_DATA"])
    frames = sorted(root.rglob("*.png"))
    assert frames, f"no frames below {root}"
    station = Station(tmp_path, bundle={"initial": "weld-demo"})
    with station.running():
        for frame in frames:
            station.put(str(frame.relative_to(root)), frame.read_bytes())
        results = station.wait_for(len(frames))
    assert {one["image"]["name"] for one in results} == {frame.relative_to(root).as_posix() for frame in frames}
    assert len(results) == len(frames)
    assert not [one for one in results if one["probability"] is None]
    sizes = Counter((one["image"]["width"], one["image"]["height"]) for one in results)
    assert set(sizes) <= {(1280, 700), (800, 974)}, sizes
