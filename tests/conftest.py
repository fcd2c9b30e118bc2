"""For all tests."""

from __future__ import annotations

from hypothesis import settings

# Machines that run tests are slow and uneven: time limits belong to benchmarks.
settings.register_profile("weldwatch", deadline=None)
settings.load_profile("weldwatch")
