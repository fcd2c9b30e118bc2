"""Clients that write as slow cameras and SMB servers do: in chunks, with pauses, some by reopening and appending."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

CHUNKS = 5


def write_in_chunks(folder: Path, files: Mapping[str, bytes], pauses_s: Sequence[float], writers: int = 8) -> None:
    """Write these files (name to bytes), a third of them by reopen-and-append; returns when all are written."""
    names = list(files)

    def write(writer: int) -> None:
        chance = random.Random(writer)
        for number in range(writer, len(names), writers):
            name = names[number]
            _write(folder / name, files[name], chance, pauses_s, reopen=number % 3 == 0)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _write(path: Path, data: bytes, chance: random.Random, pauses_s: Sequence[float], *, reopen: bool) -> None:
    step = len(data) // CHUNKS + 1
    chunks = [data[start : start + step] for start in range(0, len(data), step)]
    file = path.open("wb", buffering=0)
    try:
        for chunk in chunks:
            file.write(chunk)
            if reopen:
                file.close()
            time.sleep(chance.choice(pauses_s))  # the writer's own pace is what is tested
            if reopen:
                file = path.open("ab", buffering=0)
    finally:
        file.close()
