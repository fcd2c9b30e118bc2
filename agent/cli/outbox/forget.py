"""``weldwatch outbox forget``: dead letters that somebody has looked at go.

Invariants: only dead letters are touched, never a result that waits. Short transactions beside a running agent.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from agent.usage import examples


def add_to(verbs: Any) -> None:
    """Describe the verb."""
    forget: argparse.ArgumentParser = verbs.add_parser(
        "forget",
        help="remove dead letters that were looked at",
        description="Remove the dead letters of a sink: results that it refused for good, which status shows. What "
        "waits to be delivered is not touched, nor are the results on disk. The agent may run or be stopped.",
        epilog=examples(
            "weldwatch outbox forget --sink mqtt --before 30d",
            "weldwatch outbox forget --sink webhook --json",
            then="weldwatch outbox status shows what is left; results.keep_dead_days forgets by itself.",
        ),
    )
    forget.add_argument("--sink", metavar="S", required=True, help="whose: files, mqtt, sparkplug or webhook")
    forget.add_argument("--before", metavar="T", help="only those refused before then; default: all")
    forget.add_argument("--config", metavar="FILE", help="the station's configuration; default: as for run")
    forget.add_argument("--json", action="store_true", help="answer as one JSON object")
    forget.set_defaults(work=_forget)


def _forget(options: argparse.Namespace) -> int:
    from datetime import datetime, timezone

    from agent import config, moments
    from agent.app.places import enter_state
    from agent.clock import iso_utc
    from agent.errors import UsageError
    from agent.ledger.dead import forget
    from agent.ledger.reader import Reader

    settings = config.load(config.find(options.config))
    state = Path(settings.state)
    enter_state(state)
    now = datetime.now(timezone.utc)
    asked = options.before is not None
    before = iso_utc(moments.parse(options.before, now, settings.zone, "--before")) if asked else None
    with Reader(state) as ledger:
        known = {sink.name for sink in ledger.sinks()}
    if options.sink not in known:
        allowed = ", ".join(sorted(known)) or "none: no agent has delivered from this ledger yet"
        raise UsageError(f"--sink: {options.sink!r} is no sink of this ledger; allowed: {allowed}")
    went = forget(state, options.sink, before)
    if options.json:
        print(json.dumps({"sink": options.sink, "before": before, "forgotten": went}))
    else:
        when = f", refused before {before}," if before else ""
        print(f"{went} dead letters of {options.sink}{when} are forgotten")
    return 0
