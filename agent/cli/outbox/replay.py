"""``weldwatch outbox replay`` and ``cancel``: a span of time again, for sinks that are asked by name.

Invariants: the wish is written beside the ledger, never to it; a running agent takes it up, a stopped one at its start.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from agent.usage import examples


def add_to(verbs: Any) -> None:
    """Describe both verbs."""
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
