"""``weldwatch run``: the agent."""

from __future__ import annotations

import argparse
import faulthandler
import os
import signal
import sys
from pathlib import Path
from typing import Any

from agent.usage import examples, number

#: A step may wait for the disk at least that long on any machine.
_SECONDS = number(float, 1, 3600, "a number of seconds")

_EPILOG = examples(
    "weldwatch run --config agent.yaml",
    "weldwatch run --config agent.yaml --once     inspect what is there, and end",
    "weldwatch run --log json --watchdog 60       as a service without systemd",
    then="weldwatch check --config agent.yaml tries all that it names, best before the first run; weldwatch "
    "log reads what the agent finds.",
)


def add_to(commands: Any) -> None:
    """Describe the command."""
    command: argparse.ArgumentParser = commands.add_parser(
        "run",
        help="the agent: watch, inspect, publish",
        description="Watch the configured sources, inspect each image, publish results to MQTT and to disk. "
        "SIGTERM or Ctrl-C: finish what is claimed, deliver what it can in 5 s, end. Killed anywhere, the next start "
        "goes on where it was.",
        epilog=_EPILOG,
    )
    command.add_argument("--config", metavar="FILE", help="default: $WELDWATCH_CONFIG, /etc/weldwatch/agent.yaml, "
                         "config/agent.yaml")  # fmt: skip
    command.add_argument("--once", action="store_true", help="inspect what is there, deliver, end; waits 10 s for a "
                         "broker, exit code 1 if anything stays undelivered")  # fmt: skip
    command.add_argument("--log", choices=("text", "json"), help="form of the log lines (default: json in the journal, "
                         "text elsewhere)")  # fmt: skip
    command.add_argument("--watchdog", metavar="SECONDS", type=_SECONDS, help="end with exit code 1, to be started "
                         "again, when a step of the work takes longer; default: half of systemd's WatchdogSec, or "
                         "off")  # fmt: skip
    command.add_argument("--verbose", action="store_true", help="log what goes well, too")
    command.set_defaults(work=work)


def work(options: argparse.Namespace) -> int:
    """Run until stopped."""
    from agent import config, logs

    logs.set_up(as_json=None if options.log is None else options.log == "json", verbose=options.verbose)
    settings = config.load(config.find(options.config))

    from agent.app.places import enter_state

    enter_state(Path(settings.state))

    from agent.app.agent import Agent
    from agent.app.notify import Notify
    from agent.app.watchdog import Watchdog

    faulthandler.enable()  # should the service manager have to end it, the log says where each thread stood
    agent = Agent(settings, watchdog=Watchdog(Notify.from_environment(), options.watchdog))
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda *_: agent.ask_to_stop())
    code = agent.run(once=options.once)
    if agent.start_again:  # under the same process id; what an old thread may still hold goes with the old image
        os.execv(sys.executable, sys.orig_argv)  # noqa: S606  # a shell is what nobody wants here
    return code
