"""``weldwatch log``: what the station found, read from the daily logs alone.

moments  what people call a time: ``2h``, ``08:00``, ``yesterday``
reading  the daily logs: which files, from where on, as they grow
telling  a line for people, and the statistics

Invariants: only reads, and only the results folder; the agent may run or be stopped, its state is not needed.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import tzinfo
    from pathlib import Path

    from agent.cli.log.reading import Wanted

NEWEST = 50  #: shown to people who did not say since when
_EPILOG = f"""\
times for --since:  45s  30m  2h  3d     so long ago
                    08:00                the last time it was so late
                    today  yesterday
                    2026-11-22  2026-11-22T08:00  2026-11-22T07:00:00Z
Times without a zone are the station's (station.timezone).

Without --since you see the newest {NEWEST}; --json and --stats take everything.

examples:
  weldwatch log --follow
  weldwatch log --since 2h --evaluation NotOK
  weldwatch log --part A17 --json | jq .reasons
  weldwatch log --since today --stats

next: weldwatch outbox status, where results do not arrive elsewhere.
"""


def add_to(commands: Any) -> None:
    """Describe the command."""
    command: argparse.ArgumentParser = commands.add_parser(
        "log",
        help="read the results: newest, by time, by part, as they come",
        description="What the station found: read the results from the daily logs in results.directory. Only reads; "
        "works with the agent running or stopped, and for everybody who may read that folder.",
        epilog=_EPILOG,
    )
    command.add_argument("--config", metavar="FILE", help="the station's configuration; default: as for run")
    command.add_argument("--directory", metavar="DIR", help="a results folder, instead of a configuration")
    command.add_argument("--follow", action="store_true", help="go on with what comes, until Ctrl-C")
    command.add_argument("--since", metavar="T", help="results made from then on, see below")
    command.add_argument("--evaluation", choices=("OK", "NotOK", "NotDecidable"), help="only these")
    command.add_argument("--part", metavar="P", help="only those of this part_id")
    command.add_argument("--stats", action="store_true", help="counts, reasons, rate and time spent instead")
    command.add_argument("--json", action="store_true", help="results as they are, one a line; with --stats one object")
    command.set_defaults(work=work)


def work(options: argparse.Namespace) -> int:
    """Read, choose, tell."""
    from datetime import datetime, timezone

    from agent.cli.log.reading import Wanted
    from agent.errors import UsageError
    from agent.moments import parse

    if options.follow and options.stats:
        raise UsageError("--follow and --stats: use one or the other")
    folder, zone = _where(options)
    since = None if options.since is None else parse(options.since, datetime.now(timezone.utc), zone)
    wanted = Wanted(since, options.evaluation, options.part)
    if options.stats:
        return _stats(folder, wanted, zone, as_json=options.json)
    _results(folder, wanted, zone, as_json=options.json, follow=options.follow)
    return 0


def _where(options: argparse.Namespace) -> tuple[Path, tzinfo]:
    """The results folder, and the zone of times without one."""
    from datetime import datetime, timezone
    from pathlib import Path

    from agent import config
    from agent.errors import UsageError

    if options.directory is not None:
        folder, zone, daily = Path(options.directory), datetime.now().astimezone().tzinfo or timezone.utc, True
    else:
        settings = config.load(config.find(options.config))
        folder, zone, daily = Path(settings.results.directory), settings.zone, settings.results.daily_log
    if not folder.is_dir():
        raise UsageError(f"{folder}: no results folder here; has an agent run with this configuration?")
    if not daily:
        raise UsageError("results.daily_log is false: this station writes no daily log; see weldwatch outbox")
    return folder, zone


def _results(folder: Path, wanted: Wanted, zone: tzinfo, *, as_json: bool, follow: bool) -> None:
    from agent.cli.log.reading import Follower, newest, read
    from agent.cli.log.telling import HEAD

    if not as_json:
        print(HEAD)
    follower = Follower(folder) if follow else None  # notes where the logs end now; what comes later is its
    if wanted.since is None and (follow or not as_json):
        found: Iterator[bytes] = newest(folder, wanted, NEWEST, follower.ends if follower else None)
    else:
        found = read(folder, wanted, until=follower.ends if follower else None)
    shown = _print(found, zone, as_json=as_json)
    if not (shown or follow):
        print("weldwatch: no result matches", file=sys.stderr)
    elif shown == NEWEST and wanted.since is None and not (as_json or follow):
        print(f"weldwatch: the newest {NEWEST}; more with --since", file=sys.stderr)
    while follower is not None:
        sys.stdout.flush()
        _print(follower.wait(wanted), zone, as_json=as_json)


def _print(lines: Iterator[bytes], zone: tzinfo, *, as_json: bool) -> int:
    from agent.cli.log.telling import as_line, as_raw

    shown = 0
    terminal = sys.stdout.isatty()
    for shown, line in enumerate(lines, 1):  # noqa: B007  # the count is the result
        if as_json:
            sys.stdout.buffer.write(as_raw(line, terminal))
        else:
            sys.stdout.write(as_line(line, zone, terminal))
    return shown


def _stats(folder: Path, wanted: Wanted, zone: tzinfo, *, as_json: bool) -> int:
    import json

    from agent.cli.log.reading import read, size
    from agent.cli.log.statistics import Statistics, show

    statistics = Statistics(zone)
    for line in _watched(read(folder, wanted), size(folder, wanted)):
        statistics.add(line)
    if as_json:
        print(json.dumps(statistics.as_json()))
    else:
        show(statistics)
    return 0


def _watched(lines: Iterator[bytes], total: int) -> Iterator[bytes]:
    """A progress bar on a terminal, where it may take more than a moment."""
    if total < 50_000_000 or not sys.stderr.isatty():
        yield from lines
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task, read = progress.add_task("reading", total=total), 0
        for number, line in enumerate(lines):
            read += len(line) + 1
            if number % 5000 == 0:
                progress.update(task, completed=read)
            yield line
