"""``weldwatch support``: what a helper needs to see, in one file, without a secret in it.

redaction  what may leave the station
contents   what is packed

Invariants: only reads; nothing is sent anywhere; every text passes the redaction, whatever it comes from.
"""

from __future__ import annotations

import argparse
from typing import Any

from agent.usage import number

_EPILOG = """\
examples:
  weldwatch support --config agent.yaml
  weldwatch support --out support.tar.gz

in it: the configuration, what `weldwatch check` says, versions, the last lines
of the journal, how far each sink is, and statistics of the last seven days.
Not in it: passwords, tokens, keys, user names, addresses with such in them,
and images (unless you ask for some with --frames). Names of images and parts
are in it. Look through it before you give it away:

  tar -xzf support.tar.gz --to-stdout | less

next: give it to who helps; nothing was sent.
"""


def add_to(commands: Any) -> None:
    """Describe the command."""
    command: argparse.ArgumentParser = commands.add_parser(
        "support",
        help="pack what a helper needs to see, without secrets",
        description="Pack what somebody who helps needs to see into one file, secrets taken out. Sends nothing.",
        epilog=_EPILOG,
    )
    command.add_argument("--config", metavar="FILE", help="default: as for run")
    command.add_argument("--out", metavar="FILE", help="default: weldwatch-support-<time>.tar.gz in this folder")
    command.add_argument(
        "--frames", metavar="N", type=number(int, 0), default=0, help="also the last N images (default none)"
    )
    command.set_defaults(work=work)


def work(options: argparse.Namespace) -> int:
    """Gather, redact, pack, and say what is in it."""
    import contextlib
    import io
    import os
    import tarfile
    import time
    from pathlib import Path

    from agent import config
    from agent.cli.support.contents import gather
    from agent.errors import UsageError

    source = config.find(options.config)
    out = Path(options.out or time.strftime("weldwatch-support-%Y%m%dT%H%M%S.tar.gz"))
    try:
        # Nobody else on this machine reads it; opened first, as whoever called (check goes on as the agent's user).
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise UsageError(f"--out: {out} is there already; name another file") from None
    except OSError as error:
        raise UsageError(f"--out: {out}: {error.strerror}; name a file in a folder that you may write to") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            with tarfile.open(fileobj=file, mode="w:gz") as pack:
                for name, data in gather(source, options.frames):
                    entry = tarfile.TarInfo(f"weldwatch-support/{name}")
                    entry.size, entry.mtime, entry.mode = len(data), int(time.time()), 0o600
                    pack.addfile(entry, io.BytesIO(data))
                    print(f"{len(data):>9}  {name}")
            size = file.tell()
    except BaseException:
        with contextlib.suppress(OSError):  # root's folder may be closed to the agent's user; what went wrong counts
            out.unlink(missing_ok=True)
        raise
    print(f"{out} ({size} bytes): look through it before you give it away")
    return 0
