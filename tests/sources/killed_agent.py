"""A process to be killed: a folder source whose commits are lines appended to a file. Run by test_kill.py.

Usage: killed_agent.py CAPTURES ARCHIVE REJECTED LEDGER [once]
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from zoneinfo import ZoneInfo

from agent.clock import SystemClock
from agent.config import FolderConfig
from agent.frame import Frame
from agent.health import Health
from agent.sources.folder import FolderSource


class FileLedger:
    """A line a key; an append survives a kill of the process."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        content = os.pread(self._fd, os.fstat(self._fd).st_size, 0)
        self._keys = {bytes.fromhex(line.split(b" ")[0].decode()) for line in content.splitlines()}

    def seen(self, keys: Sequence[bytes]) -> set[bytes]:
        return {key for key in keys if key in self._keys}

    def forget_seen(self, source: str, present: Callable[[bytes], bool]) -> int:
        return 0

    def commit(self, frame: Frame) -> None:
        if frame.key not in self._keys:
            self._keys.add(frame.key)
            os.write(self._fd, f"{frame.key.hex()} {frame.name} {'bad' if frame.problem else 'good'}\n".encode())


def main(captures: str, archive: str, rejected: str, path: str, once: str = "") -> None:
    ledger = FileLedger(path)
    config = FolderConfig(
        name="captures", path=captures, settle_s=0.02, rescan_s=1.0, incomplete_s=0.1, after="archive",
        archive=archive, rejected=rejected,
    )  # fmt: skip
    source = FolderSource(config, ZoneInfo("UTC"), ledger, Health(), SystemClock())

    def offer(frame: Frame) -> bool:
        ledger.commit(frame)
        source.release([frame.key])
        return True

    source.run(offer, threading.Event(), once=bool(once))
    source.close(60.0)


if __name__ == "__main__":
    main(*sys.argv[1:])
