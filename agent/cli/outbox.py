"""``weldwatch outbox``: what has not reached a sink yet, read from the ledger without writing to it.

Invariants: works with the agent running or stopped, and for a reader without write access.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent.ledger import DeadLetter
    from agent.ledger.reader import SinkState

_SHOWN = 20  #: dead letters in the table; --json has all
_EPILOG = """\
sinks: files (the results folder) and mqtt (the broker). A result waits until the sink has taken it. One that
a sink refuses for good (too large for the broker, a name the disk never takes) is a dead letter, kept with its reason.

examples:
  weldwatch outbox status --config agent.yaml
  weldwatch outbox status --json
"""


def add_to(commands: Any) -> None:
    """Describe the command."""
    top: argparse.ArgumentParser = commands.add_parser(
        "outbox",
        help="what is not delivered yet, and dead letters",
        description="Results that have not reached the disk or the broker yet, and those refused for good. Only reads; "
        "the agent may run or be stopped.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = top.add_subparsers(title="verbs", metavar="VERB", required=True)
    status = verbs.add_parser(
        "status",
        help="how far each sink is, and its dead letters",
        description="For each sink: delivered up to which sequence, how many wait, since when; and its dead letters.",
    )
    status.add_argument("--config", metavar="FILE", help="the station's configuration; default: as for run")
    status.add_argument("--json", action="store_true", help="answer as one JSON object")
    status.set_defaults(work=_status)


def _status(options: argparse.Namespace) -> int:
    from agent import config
    from agent.ledger.reader import Reader

    settings = config.load(config.find(options.config))
    with Reader(Path(settings.state)) as ledger:
        sinks, dead = ledger.sinks(), ledger.dead()
        if options.json:
            print(json.dumps(_as_json(ledger.ledger_id, sinks, dead)))
        else:
            _show(sinks, dead)
    return 0


def _as_json(ledger_id: str, sinks: list[SinkState], dead: list[DeadLetter]) -> dict[str, Any]:
    return {
        "ledger_id": ledger_id,
        "sinks": [
            {
                "name": sink.name,
                "active": sink.active,
                "delivered_up_to": sink.cursor,
                "depth": sink.depth,
                "oldest_undelivered": sink.oldest,
                "dead_letters": sink.dead,
            }
            for sink in sinks
        ],
        "dead_letters": [
            {
                "sink": letter.sink,
                "sequence": letter.sequence,
                "result_id": letter.result_id,
                "image": _image(letter),
                "reason": letter.reason,
                "buried_at": letter.buried_at,
            }
            for letter in dead
        ],
    }


def _image(letter: DeadLetter) -> str:
    return str(json.loads(letter.body)["image"]["name"])


def _show(sinks: list[SinkState], dead: list[DeadLetter]) -> None:
    """Names of images and reasons are others' words: shown as text, never as markup."""
    from rich.console import Console

    console = Console()
    if not sinks:
        console.print("no agent has delivered from this ledger yet")
        return
    rows = [
        (
            sink.name if sink.active else f"{sink.name} (no longer configured)",
            str(sink.cursor),
            str(sink.depth),
            sink.oldest or "–",
            str(sink.dead),
        )
        for sink in sinks
    ]
    console.print(_table(("sink", "delivered up to", "waiting", "oldest waiting", "dead letters"), rows))
    if not dead:
        return
    letters = [
        (letter.sink, str(letter.sequence), _image(letter), letter.reason, letter.buried_at)
        for letter in dead[-_SHOWN:]
    ]
    console.print()
    console.print(_table(("refused by", "sequence", "image", "reason", "since"), letters))
    if len(dead) > _SHOWN:
        console.print(f"the last {_SHOWN} of {len(dead)} dead letters; --json has all")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    from agent.logs import printable

    table = Table(*heads, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(printable(cell), overflow="fold") for cell in row))
    return table
