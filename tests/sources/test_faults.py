"""A fault on the way costs no file its result: what was taken with it is taken again."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from agent.clock import SystemClock
from agent.errors import RetryError
from agent.frame import Frame
from agent.health import Health
from agent.sources import folder as folder_module


def aged(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    os.utime(path, (time.time() - 60,) * 2)
    return path


def test_a_fault_with_one_file_strands_none_of_those_that_were_taken_with_it(bench, png, monkeypatch):
    for number in range(10):
        aged(bench.captures / f"{number}.png", png)
    source = folder_module.FolderSource(bench.config(), ZoneInfo("UTC"), bench.ledger, Health(), SystemClock())
    really, fault, taken = folder_module.Intake.read, [True], list[str]()

    def fails_once(self, path, signature):
        if len(taken) == 4 and fault:
            fault.clear()
            raise RuntimeError("a fault of ours")
        return really(self, path, signature)

    def offer(frame: Frame) -> bool:
        taken.append(frame.name)
        return len(taken) < 10

    monkeypatch.setattr(folder_module.Intake, "read", fails_once)
    with pytest.raises(RuntimeError):
        source.run(offer, threading.Event())
    stop = threading.Event()
    timer = threading.Timer(30.0, stop.set)
    timer.start()
    source.run(offer, stop)  # as the agent starts it again
    timer.cancel()
    assert sorted(taken) == [f"{number}.png" for number in range(10)]


@pytest.mark.parametrize("refused", [1, 2], ids=["while scanning", "while handing over"])
@pytest.mark.parametrize("once", [True, False])
def test_a_ledger_that_cannot_answer_is_a_pause(bench, png, monkeypatch, refused, once):
    monkeypatch.setattr(folder_module, "PAUSE_S", 0.05)
    really, calls = bench.ledger.seen, []

    def seen(keys):
        calls.append(len(keys))
        if len(calls) == refused:
            raise RetryError("the ledger cannot be read: disk I/O error")
        return really(keys)

    monkeypatch.setattr(bench.ledger, "seen", seen)
    for number in range(10):
        aged(bench.captures / f"{number}.png", png)
    running = bench.once() if once else bench.start()
    running.until_frames(10)
    assert running.names() == [f"{number}.png" for number in range(10)]
