"""Results as an inspection makes them, for tests of what comes after it."""

from __future__ import annotations

from typing import Any

from agent.ledger import Entry
from agent.ports import Stored
from agent.result import ImageFacts, ModelFacts, Reason, Result, Station, Timing, new_result_id

CREATED = "2026-11-22T10:22:05.141Z"


def a_result(name: str = "shift1/A17_J9_0042.png", created_at: str = CREATED, **changes: Any) -> Result:
    """A NotOK result of the image ``name``."""
    fields: dict[str, Any] = {
        "result_id": new_result_id(),
        "class_": "defect",
        "probability": [0.031, 0.969],
        "labels": ["no defect", "defect"],
        "evaluation": "NotOK",
        "reasons": [Reason("defect_probability", 0.969, 0.42)],
        "station": Station("acme", "detroit", "body", "line-3", "cam-07"),
        "part_id": None,
        "job_id": None,
        "weld_id": None,
        "frame": None,
        "image": ImageFacts(name, "0" * 64, 171_123, 1280, 700, "captures"),
        "captured_at": "2026-11-22T10:22:05.123Z",
        "captured_from": "mtime",
        "created_at": created_at,
        "model": ModelFacts("weld-demo", "1.0.0", "fp32", "0" * 64),
        "timing_ms": Timing(4.9, 0.3, 1.2, 6.6),
        "simulated": False,
    }
    return Result(**{**fields, **changes})


def key(number: int) -> bytes:
    """16 bytes that stand for file ``number``."""
    return number.to_bytes(16, "big")


def an_entry(number: int, **changes: Any) -> Entry:
    """The result of file ``number`` on its way into the ledger."""
    changes.setdefault("name", f"A17_{number:06d}.png")
    return Entry(a_result(**changes), key(number), "captures")


def stored(
    sequence: int, name: str = "A17.png", created_at: str = CREATED, ledger_id: str = "L", pad: int = 0
) -> Stored:
    """A result as a sink gets it; ``pad`` makes its JSON longer by so many bytes."""
    import msgspec

    result = a_result(name, created_at, sequence=sequence, ledger_id=ledger_id, labels=["no defect", "d" + "x" * pad])
    return Stored(sequence, result.result_id, created_at, name, msgspec.json.encode(result))
