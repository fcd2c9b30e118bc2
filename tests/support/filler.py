"""Somebody else who fills a disk to the last byte."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path


class Filler(threading.Thread):
    """``with Filler(disk)``: takes all the space there is, and whatever becomes free, until the block ends."""

    def __init__(self, disk: Path) -> None:
        super().__init__(name="filler")
        self._path, self._enough, self._full = disk / "somebody-elses.data", threading.Event(), threading.Event()

    def run(self) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while not self._enough.wait(0.01):
                for size in (1 << 20, 1 << 12, 1):
                    _write_until_full(descriptor, bytes(size))
                self._full.set()
        finally:
            os.close(descriptor)

    def __enter__(self) -> Filler:
        self.start()
        assert self._full.wait(20)
        return self

    def __exit__(self, *exc: object) -> None:
        self._enough.set()
        self.join()
        self._path.unlink()


def _write_until_full(descriptor: int, block: bytes) -> None:
    try:
        while True:
            os.write(descriptor, block)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
