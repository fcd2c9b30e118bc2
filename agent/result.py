"""The result: one JSON object an image, schema ``weldwatch.result/1``.

Invariants
- Field names, order and meaning are the outward contract; fields are only ever added within ``/1``.
- Unknown is null, never missing.
- ``sequence`` and ``ledger_id`` are filled in by the ledger's commit and by nothing else.
"""

from __future__ import annotations

import os
import time
from typing import Literal

import msgspec

SCHEMA = "weldwatch.result/1"

Evaluation = Literal["OK", "NotOK", "NotDecidable"]


class Reason(msgspec.Struct, frozen=True):
    """Why the evaluation is what it is. ``code`` is stable and listed in ``docs/results.md``."""

    code: str
    value: float | None = None
    limit: float | None = None
    detail: str | None = None


class Station(msgspec.Struct, frozen=True):
    """Where the image was taken, as configured."""

    enterprise: str
    site: str
    area: str
    line: str
    name: str


class ImageFacts(msgspec.Struct, frozen=True):
    """Which bytes were judged. Null where they could not be read."""

    name: str
    sha256: str | None
    bytes: int | None
    width: int | None
    height: int | None
    source: str


class ModelFacts(msgspec.Struct, frozen=True):
    """Which model judged. ``sha256`` is that of the ONNX file."""

    name: str
    version: str
    variant: str
    sha256: str


class Timing(msgspec.Struct, frozen=True):
    """Milliseconds spent; a stage that did not happen took 0."""

    decode: float
    preprocess: float
    inference: float
    total: float


class Result(msgspec.Struct, frozen=True, kw_only=True, rename={"class_": "class"}):
    """What the station says of one image."""

    schema: str = SCHEMA
    result_id: str
    ledger_id: str | None = None  #: null, like sequence, for one-shot predictions
    sequence: int | None = None
    class_: str | None
    probability: list[float] | None
    labels: list[str]
    evaluation: Evaluation
    reasons: list[Reason]
    station: Station | None  #: null for one-shot predictions
    part_id: str | None
    job_id: str | None
    weld_id: str | None
    frame: str | None
    image: ImageFacts
    captured_at: str
    captured_from: str
    created_at: str
    model: ModelFacts
    timing_ms: Timing
    simulated: bool


def new_result_id(unix_ms: int | None = None) -> str:
    """A UUID version 7 (RFC 9562, 5.7): 48 bits of milliseconds since 1970, then 74 random bits."""
    stamp = (time.time_ns() // 1_000_000 if unix_ms is None else unix_ms) & (1 << 48) - 1
    random = int.from_bytes(os.urandom(10), "big")
    value = stamp << 80 | 0x7 << 76 | (random >> 68 & 0xFFF) << 64 | 0b10 << 62 | random & (1 << 62) - 1
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
