"""A ledger, a health and a clock for what delivers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.clock import SystemClock
from agent.health import Health
from agent.ledger import Ledger


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger.open(tmp_path / "state", SystemClock())
    yield ledger
    ledger.close()
