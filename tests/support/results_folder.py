"""A results folder as a program that looks for results sees it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.config import ResultsConfig
from agent.delivery.json_files import JsonFiles
from agent.ports import Stored

DAY = "2026-11-22"


def sink(folder: Path, **changes: Any) -> JsonFiles:
    return JsonFiles(ResultsConfig(directory=str(folder), **changes))


def files(folder: Path) -> dict[str, str]:
    """Name to result id of everything that a program looking for results would see."""
    return {
        str(path.relative_to(folder)): json.loads(path.read_bytes())["result_id"]
        for path in sorted(folder.glob("*/*"))
        if not path.name.startswith(".")
    }


def lines(folder: Path, day: str = DAY) -> list[str]:
    text = (folder / f"{day}.jsonl").read_bytes()
    assert text == b"" or text.endswith(b"\n")
    return [json.loads(line)["result_id"] for line in text.splitlines()]


def ids(results: Sequence[Stored]) -> list[str]:
    return [one.result_id for one in results]
