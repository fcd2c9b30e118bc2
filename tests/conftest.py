"""For all tests."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# Machines that run tests are slow and uneven: time limits belong to benchmarks.
settings.register_profile("weldwatch", deadline=None)
settings.load_profile("weldwatch")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests on real frames exist only where there are real frames: without them they are not part of the suite."""
    if os.environ.get("WELDWATCH_FIELD_DATA"):
        return
    field = [item for item in items if item.get_closest_marker("field")]
    config.hook.pytest_deselected(items=field)
    items[:] = [item for item in items if item not in field]
