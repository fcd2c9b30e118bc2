"""For all tests."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings

from agent.logs import LOGGER

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
    # Side by side the longest begin first, so that no worker is alone with one of them at the end.
    items.sort(key=lambda item: _company(item.nodeid) not in TOGETHER)


#: Folders whose tests share what takes minutes to make: a machine with its wheels, a trained network.
TOGETHER = ("deploy", "training")


def _company(nodeid: str) -> str:
    """Whose tests stay with one worker, where several run side by side: those of a file, or of a whole folder."""
    file = nodeid.partition("::")[0]
    folder = file.removeprefix("tests/").partition("/")[0]
    return folder if folder in TOGETHER else file


@pytest.hookimpl(optionalhook=True)  # for where pytest-xdist is
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """By ``_company``. Groups by mark, xdist's own way, are lost with pytest 9.2: it sets a name that is not read."""
    from xdist.scheduler import LoadScopeScheduling

    class Companies(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _company(nodeid)

    return Companies(config, log)


@pytest.fixture(autouse=True)
def log_levels_put_back() -> Iterator[None]:
    """A command that runs in this process sets levels as for itself; the next test wants to see every line again."""
    loggers = [logging.getLogger(), logging.getLogger(LOGGER)]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """What a test measured, in words: told at the end of the run, whatever the outcome."""
    return lambda text: record_property("figure", text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The figures that tests measured."""
    for report in [report for reports in terminalreporter.stats.values() for report in reports]:
        for name, text in getattr(report, "user_properties", ()):
            if name == "figure" and report.when == "call":
                terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {text}")
