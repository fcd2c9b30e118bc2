"""``weldwatch outbox``: what has not reached a sink yet, and sending a span of time again.

status   how far each sink is, and its dead letters
replay   a span of time again; cancel
forget   dead letters that were looked at
salvage  what can be read of a damaged ledger

Invariants: works with the agent running or stopped. ``status`` and ``salvage`` only read, also for a reader without
write access; ``replay`` writes beside the ledger; ``forget`` alone writes to it.
"""

from __future__ import annotations

import argparse
from typing import Any

from agent.cli.outbox import forget, replay, salvage, status

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
  weldwatch outbox salvage state/ledger-damaged-1.sqlite3 --out saved.jsonl

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
    for verb in (status, replay, forget, salvage):
        verb.add_to(verbs)
