"""For all tests."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# Machines that run tests are slow and uneven: time limits belong to benchmarks.
settings.register_profile("weldwatch", deadline=None)
settings.load_profile("weldwatch")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests on real frames exist only where there are real frames, those that boot a machine only for root (as CI is):
    elsewhere they are not part of the suite.
    """
    absent = set()
    if not os.environ.get("WELDWATCH_FIELD_DATA"):
        absent.add("field")
    if os.geteuid() != 0:
        absent.add("root")
    left_out = [item for item in items if any(item.get_closest_marker(name) for name in absent)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
