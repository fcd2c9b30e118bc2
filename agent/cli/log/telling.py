"""A result as one line for people, or as it stands.

Invariant: names of images and of bundles, and reasons, are others' words: no control character of theirs reaches a
terminal.
"""

from __future__ import annotations

import shutil
import textwrap
from datetime import datetime, tzinfo

import msgspec

from agent.clock import parse_iso
from agent.logs import printable
from agent.result import Reason

_COLOURS = {"OK": "32", "NotOK": "31", "NotDecidable": "33"}
HEAD = f"{'time':<23} {'evaluation':<12} {'defect':>6}  {'part':<12} image"


class _Image(msgspec.Struct):
    name: str


class _Model(msgspec.Struct):
    name: str
    version: str


class _Timing(msgspec.Struct):
    total: float


class Shown(msgspec.Struct):
    """What people look at in a result."""

    created_at: str
    evaluation: str
    reasons: list[Reason]
    part_id: str | None
    image: _Image
    model: _Model
    timing_ms: _Timing


_DECODER = msgspec.json.Decoder(Shown)


def decode(line: bytes) -> Shown | None:
    """A line of a daily log; None when it is no result."""
    try:
        return _DECODER.decode(line)
    except msgspec.DecodeError:
        return None


def local(shown: Shown, zone: tzinfo) -> datetime:
    """When it was made, in ``zone``."""
    return parse_iso(shown.created_at).astimezone(zone)


def as_line(line: bytes, zone: tzinfo, terminal: bool) -> str:
    """For people; ends with a newline."""
    shown = decode(line)
    if shown is None:
        return f"(no result) {printable(line[:100].decode(errors='replace'))}\n"
    try:
        when = f"{local(shown, zone):%Y-%m-%d %H:%M:%S.%f}"[:-3]
    except ValueError:
        when = shown.created_at
    value = next((reason.value for reason in shown.reasons if reason.value is not None), None)
    number = "" if value is None else f"{value:.3f}"
    why = ""
    if shown.evaluation == "NotDecidable":
        why = "  " + "; ".join(f"{reason.code} {reason.detail or ''}".strip() for reason in shown.reasons)
    text = printable(
        f"{when:<23} {shown.evaluation:<12} {number:>6}  {shown.part_id or '–':<12} {shown.image.name}{why}"
    )
    return (_on_terminal(text, printable(shown.evaluation)) if terminal else text) + "\n"


def _on_terminal(text: str, evaluation: str) -> str:
    """In colour; what finds no room goes on below the evaluation."""
    if len(text) > (width := shutil.get_terminal_size().columns):
        text = textwrap.fill(text, max(40, width), subsequent_indent=" " * 24, break_on_hyphens=False)
    return text.replace(evaluation, f"\x1b[{_COLOURS.get(evaluation, '0')}m{evaluation}\x1b[0m", 1)


def as_raw(line: bytes, terminal: bool) -> bytes:
    """For machines: the result byte for byte; only on a terminal its control characters are shown as such."""
    return b"%b\n" % (printable(line.decode(errors="replace")).encode() if terminal else line)
