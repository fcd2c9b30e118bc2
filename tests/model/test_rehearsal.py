"""Loading and testing beside a working line: what it finds, and that its death is not the agent's."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from agent.errors import BundleError, RetryError
from agent.model.loading import Trust
from agent.model.rehearsal import Rehearsal
from tests.support.bundles import brightness_bundle
from tests.support.station import until


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    brightness_bundle(tmp_path / "b.pipeline")
    return tmp_path / "b.pipeline"


def test_it_finds_what_to_take(bundle: Path) -> None:
    choice = Rehearsal().run(bundle, Trust(device="openvino"))
    assert (choice.variant, choice.device, len(choice.refusals)) == ("fp32", "cpu", 1)


def test_its_refusal_is_the_loading_ones(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    with pytest.raises(BundleError, match="is not signed"):
        Rehearsal().run(bundle, Trust(tmp_path / "keys"))
    bundle.write_bytes(b"PK")
    with pytest.raises(BundleError, match="not a whole bundle"):
        Rehearsal().run(bundle, Trust())


def child() -> int | None:
    """The process id of a rehearsal that has begun to load."""
    for task in Path("/proc/self/task").iterdir():
        for pid in (task / "children").read_text().split():
            if b"agent.model.rehearsal" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return int(pid)
    return None


def test_a_graph_that_crashes_the_library_is_refused_and_this_process_lives(bundle: Path) -> None:
    def crash() -> None:
        os.kill(until(child, "the child"), signal.SIGSEGV)  # what a graph would do to it

    thread = threading.Thread(target=crash)
    thread.start()
    with pytest.raises(BundleError, match=r"ended the process \(SIGSEGV\)"):
        Rehearsal().run(bundle, Trust())
    thread.join()


def test_an_agent_that_stops_does_not_wait_for_it(bundle: Path) -> None:
    rehearsal = Rehearsal()
    thread = threading.Thread(target=lambda: (until(child, "the child"), rehearsal.cancel()))
    thread.start()
    with pytest.raises(RetryError):
        rehearsal.run(bundle, Trust())
    thread.join()
    with pytest.raises(RetryError):
        rehearsal.run(bundle, Trust())
    assert child() is None
