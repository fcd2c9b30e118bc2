"""``weldwatch outbox``: what has not reached a sink yet, and sending a span of time again.

Invariants: works with the agent running or stopped. ``status`` only reads, also for a reader without write access; the
others write beside the ledger, never to it (but ``forget``, which has a module of its own).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.cli import outbox_forget, salvage
from agent.usage import examples

if TYPE_CHECKING:
    from agent.delivery.replays import Progress, Wish
    from agent.ledger import DeadLetter
    from agent.ledger.reader import SinkState

    Again = tuple[str, Wish, Progress | None]

_SHOWN = 20  #: dead letters in the table; --json has all
_EPILOG = """\
sinks: files (the results folder), mqtt, sparkplug and webhook. A result waits
until the sink has taken it. One that a sink refuses for good (too large for the
broker, a name the disk never takes) is a dead letter, kept with its reason.

times for --since and --until:  45s  30m  2h  3d     so long ago
                                08:00  today  yesterday
                                2026-11-22  2026-11-22T08:00
                                2026-11-22T08:00+01:00

examples:
  weldwatch outbox status --config agent.yaml
  weldwatch outbox status --json
  weldwatch outbox replay --since 06:00 --until 08:00
  weldwatch outbox cancel 20261122T102205141Z-3f2a
  weldwatch outbox forget --sink mqtt --before 30d
  weldwatch outbox salvage state/ledger-damaged-20261122T102205141Z.sqlite3 --out salvaged.jsonl

next: each verb has its own help: weldwatch outbox replay --help.
"""


def add_to(commands: Any) -> None:
    """Describe the command."""
    top: argparse.ArgumentParser = commands.add_parser(
        "outbox",
        help="what is not delivered yet, dead letters, and sending a span of time again",
        description="Results that have not reached the disk or the broker yet, and those refused for good; and sending "
        "a span of time again. The agent may run or be stopped.",
        epilog=_EPILOG,
    )
    verbs = top.add_subparsers(title="verbs", metavar="VERB", required=True)
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
    _add_replay(verbs)
    outbox_forget.add_to(verbs)
    salvage.add_to(verbs)


def _add_replay(verbs: Any) -> None:
    replay = verbs.add_parser(
        "replay",
        help="send the results of a span of time again",
        description="Have the results of a span of time sent again, with the same ids and bytes, beside what is fresh "
        "(500 a second at most). The wish is kept in the state folder: a running agent takes it up within seconds, a "
        "stopped one when it starts. On MQTT 5 these messages carry the user property replayed: true.",
        epilog=examples(
            "weldwatch outbox replay --since 06:00 --until 08:00",
            "weldwatch outbox replay --since 2026-11-22T08:00 --sink webhook",
            then="weldwatch outbox status shows how far it is; weldwatch outbox cancel ends it.",
        ),
    )
    replay.add_argument("--since", metavar="T", required=True, help="results made from then on")
    replay.add_argument("--until", metavar="T", help="and before then; default: up to now")
    replay.add_argument(
        "--sink", choices=("mqtt", "sparkplug", "webhook"), default="mqtt", help="where to (default mqtt)"
    )
    replay.set_defaults(work=_replay)
    cancel = verbs.add_parser(
        "cancel",
        help="end a replay",
        description="End a replay; what was sent by then was sent.",
        epilog=examples(
            "weldwatch outbox cancel 20261122T102205141Z-3f2a", then="weldwatch outbox status shows that it is gone."
        ),
    )
    cancel.add_argument("replay", metavar="REPLAY", help="its name, as replay and status show it")
    cancel.set_defaults(work=_cancel)
    for verb in (replay, cancel):
        verb.add_argument("--config", metavar="FILE", help="the station's configuration; default: as for run")
        verb.add_argument("--json", action="store_true", help="answer as one JSON object")


def _replay(options: argparse.Namespace) -> int:
    from datetime import datetime, timezone

    from agent import config, moments
    from agent.app.places import enter_state
    from agent.clock import iso_utc
    from agent.delivery.replays import Replays
    from agent.errors import UsageError
    from agent.ledger.reader import Reader

    path = config.find(options.config)
    settings = config.load(path)
    enter_state(Path(settings.state))
    if getattr(settings, options.sink) is None:
        raise UsageError(f"{path}: {options.sink}: missing; there is nobody to send anything to again")
    now = datetime.now(timezone.utc)
    since = moments.parse(options.since, now, settings.zone, "--since")
    until = now if options.until is None else moments.parse(options.until, now, settings.zone, "--until")
    with Reader(Path(settings.state)) as ledger:
        _first, _last, count = ledger.span(iso_utc(since), iso_utc(until))
        held = next(iter(ledger.results()), None)
    if not count and since < until:
        begins = f"it begins at {held.created_at}" if held else "it is empty"
        raise UsageError(f"no result in the ledger was made from {iso_utc(since)} to {iso_utc(until)}; {begins}")
    name = Replays(Path(settings.state)).ask(options.sink, since, until, now)
    if options.json:
        told = {"replay": name, "sink": options.sink, "since": iso_utc(since), "until": iso_utc(until)}
        print(json.dumps({**told, "results": count}))
    else:
        print(f"replay {name}: {count} results go to {options.sink} again; see: weldwatch outbox status")
    return 0


def _cancel(options: argparse.Namespace) -> int:
    from agent import config
    from agent.app.places import enter_state
    from agent.delivery.replays import Replays

    state = Path(config.load(config.find(options.config)).state)
    enter_state(state)
    Replays(state).cancel(options.replay)
    print(json.dumps({"cancelled": options.replay}) if options.json else f"replay {options.replay} is cancelled")
    return 0


def _status(options: argparse.Namespace) -> int:
    from agent import config
    from agent.delivery.replays import Replays
    from agent.ledger.reader import Reader

    settings = config.load(config.find(options.config))
    wishes = Replays(Path(settings.state))
    again = [(name, wish, wishes.progress(name)) for name in wishes.names() if (wish := wishes.wish(name)) is not None]
    with Reader(Path(settings.state)) as ledger:
        sinks, dead = ledger.sinks(), ledger.dead()
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


def _show_replays(again: Sequence[Again]) -> None:
    if not again:
        return
    from rich.console import Console

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
    console = Console()
    console.print()
    console.print(_table(("replay", "to", "from", "until", "sent"), rows))


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    from rich.table import Column, Table
    from rich.text import Text

    from agent.logs import printable

    table = Table(Column(heads[0], no_wrap=True), *heads[1:], box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(printable(cell), overflow="fold") for cell in row))
    return table
