"""``weldwatch``: find the command, run it, and turn what goes wrong into one line and an exit code.

Exit codes: 0 done, 1 the work failed, 2 wrong usage or configuration. ``--help`` of any command loads nothing heavy.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper

from agent import __version__, usage
from agent.cli import bench, bundle, check, demo, log, outbox, predict, run, support
from agent.errors import UsageError, WeldwatchError
from agent.logs import printable

_EPILOG = """\
start here:
  weldwatch demo                       the whole station with nothing configured
  weldwatch predict weld.png           one image, one verdict
  weldwatch check --config agent.yaml  try everything that a configuration names
  weldwatch run --config agent.yaml    the agent
  weldwatch log --follow               read what it finds

Each command has its own help: weldwatch run --help. Bundles from your own
recordings are made by another program: weldwatch-train --help.
"""


def parser() -> usage.Parser:
    """The whole command line, also read by the documentation."""
    top = usage.Parser(
        prog="weldwatch",
        description="Inspection agent for a weld camera station: weld frame in, verdict out on MQTT and on disk.",
        epilog=_EPILOG,
    )
    top.add_argument("--version", action="version", version=f"weldwatch {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (demo, run, predict, check, log, bundle, outbox, bench, support):
        command.add_to(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code."""
    if isinstance(sys.stdout, TextIOWrapper):  # a terminal that is not UTF-8 shows \\u2192 for an arrow, as stderr does
        sys.stdout.reconfigure(errors="backslashreplace")
    options = parser().parse_args(arguments)
    try:
        code: int = options.work(options)
        sys.stdout.flush()
        return code
    except UsageError as error:
        print(f"weldwatch: {printable(str(error))}", file=sys.stderr)
        return 2
    except WeldwatchError as error:
        print(f"weldwatch: {printable(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (head, less) has seen enough. Python would complain again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(
            f"weldwatch: {printable(f'{error.filename or options.work.__module__}: {error.strerror}')}", file=sys.stderr
        )
        return 1


if __name__ == "__main__":
    sys.exit(main())
