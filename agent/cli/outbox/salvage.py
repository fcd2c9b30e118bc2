"""``weldwatch outbox salvage``: what can be read of a damaged ledger, as JSON lines.

Invariants: reads the damaged file, never writes to it; the output appears whole under its name, and over nothing.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.usage import examples

if TYPE_CHECKING:
    from agent.ledger.salvage import DamagedLedger, Salvage


def add_to(verbs: Any) -> None:
    """Describe the verb."""
    verb: argparse.ArgumentParser = verbs.add_parser(
        "salvage",
        help="read what can be read of a damaged ledger",
        description="Read a ledger that the agent has set aside as damaged (state/ledger-damaged-….sqlite3, with its "
        "-wal beside it), page by page, and write the results that can be read as JSON lines, as they were stored and "
        "in order of their sequence. Says how many were read, how many are known to be lost, and how far each sink "
        "was. The damaged file is only read. Exit code 1 if no result can be read.",
        epilog=examples(
            "weldwatch outbox salvage state/ledger-damaged-1.sqlite3 --out saved.jsonl",
            then="each line is a result as it was stored: hand them to whoever subscribes, by their id.",
        ),
    )
    verb.add_argument("file", metavar="FILE", type=Path, help="the damaged ledger")
    verb.add_argument("--out", metavar="OUT", type=Path, required=True, help="the file to write; it must not exist yet")
    verb.add_argument("--json", action="store_true", help="answer as one JSON object")
    verb.set_defaults(work=work)


def work(options: argparse.Namespace) -> int:
    """Look, write, say."""
    from agent.errors import UsageError
    from agent.ledger.salvage import DamagedLedger

    out: Path = options.out
    if out.exists() or out.is_symlink():
        raise UsageError(f"{out}: it is there already; name a new file in --out")
    with DamagedLedger(options.file) as ledger:
        found = ledger.look()
        if found.places:
            try:
                _write(ledger, found, out)
            except OSError as error:
                raise UsageError(f"{out}: {error.strerror}; name a file in --out that can be written") from None
    _say(found, out, as_json=options.json)
    return 0 if found.places else 1


def _write(ledger: DamagedLedger, found: Salvage, out: Path) -> None:
    import os

    part = out.with_name(f".{out.name}.part")
    try:
        with part.open("wb") as file:
            for body in ledger.bodies(found):
                file.write(body + b"\n")
            file.flush()
            os.fsync(file.fileno())
        out.open("xb").close()  # the name is ours, or somebody else's by now
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


def _say(found: Salvage, out: Path, *, as_json: bool) -> None:
    from agent.logs import printable

    sinks = {
        sink: {"delivered_up_to": cursor, "behind": sum(one > cursor for one in found.places)}
        for sink, cursor in sorted(found.cursors.items())
    }
    if as_json:
        told = {"read": len(found.places), "known_lost": found.lost, "unaccounted": found.unaccounted, "sinks": sinks}
        print(json.dumps({**told, "out": str(out) if found.places else None}))
        return
    where = f", written to {out}" if found.places else ""
    print(printable(f"{len(found.places)} results read{where}; {found.lost} known to be lost"))
    if found.unaccounted:
        print(f"{found.unaccounted} numbers in between have left no trace: removed by retention before, or lost")
    for sink, state in sinks.items():
        text = f"{sink} had delivered up to {state['delivered_up_to']}: {state['behind']} of those read are later"
        print(printable(text))
