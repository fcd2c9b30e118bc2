"""``weldwatch outbox status``: how far each sink is, its dead letters, and replays under way. Only reads."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.cli.tables import show
from agent.usage import examples

if TYPE_CHECKING:
    from agent.delivery.replays import Progress, Wish
    from agent.ledger import DeadLetter
    from agent.ledger.reader import SinkState

    Again = tuple[str, Wish, Progress | None]

_SHOWN = 20  #: dead letters in the table; --json has all


def add_to(verbs: Any) -> None:
    """Describe the verb."""
    status = verbs.add_parser(
        "status",
        help="how far each sink is, and its dead letters",
        description="For each sink: delivered up to which sequence, how many wait, since when; and its dead letters.",
        epilog=examples(
            "weldwatch outbox status --config agent.yaml",
            "weldwatch outbox status --json",
            then="weldwatch check says what is wrong with a broker; weldwatch outbox replay sends results again.",
        ),
    )
    status.add_argument("--config", metavar="FILE", help="the station's configuration; default: as for run")
    status.add_argument("--json", action="store_true", help="answer as one JSON object")
    status.set_defaults(work=_status)


def _status(options: argparse.Namespace) -> int:
    from agent import config
    from agent.delivery.replays import Replays
    from agent.ledger.reader import Reader

    settings = config.load(config.find(options.config))
    wishes = Replays(Path(settings.state))
    again = [(name, wish, wishes.progress(name)) for name in wishes.names() if (wish := wishes.wish(name)) is not None]
    with Reader(Path(settings.state)) as ledger:
        sinks, dead = ledger.sinks(), ledger.dead() if options.json else ledger.dead(_SHOWN)
        if options.json:
            print(json.dumps(_as_json(ledger.ledger_id, sinks, dead, again)))
        else:
            _show(sinks, dead)
            _show_replays(again)
    return 0


def _as_json(ledger_id: str, sinks: list[SinkState], dead: list[DeadLetter], again: Sequence[Again]) -> dict[str, Any]:
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
        "replays": [
            {
                "replay": name,
                "sink": wish.sink,
                "since": wish.since,
                "until": wish.until,
                "asked_at": wish.asked_at,
                "sent": progress.sent if progress else 0,
                "results": progress.total if progress else None,
            }
            for name, wish, progress in again
        ],
    }


def _image(letter: DeadLetter) -> str:
    return str(json.loads(letter.body)["image"]["name"])


def _show(sinks: list[SinkState], dead: list[DeadLetter]) -> None:
    if not sinks:
        print("no agent has delivered from this ledger yet")
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
    show(("sink", "delivered up to", "waiting", "oldest waiting", "dead letters"), rows, right=(1, 2, 4))
    if not dead:
        return
    letters = [(letter.sink, str(letter.sequence), _image(letter), letter.reason, letter.buried_at) for letter in dead]
    print()
    show(("refused by", "sequence", "image", "reason", "since"), letters)
    if (total := sum(sink.dead for sink in sinks)) > _SHOWN:
        print(f"the last {_SHOWN} of {total} dead letters; --json has all")


def _show_replays(again: Sequence[Again]) -> None:
    if not again:
        return
    rows = [
        (
            name,
            wish.sink,
            f"{wish.since[:19]}Z",  # to the second: all of it fits into 80 columns
            f"{wish.until[:19]}Z",
            f"{progress.sent} of {progress.total}" if progress else "waits",
        )
        for name, wish, progress in again
    ]
    print()
    show(("replay", "to", "from", "until", "sent"), rows)
