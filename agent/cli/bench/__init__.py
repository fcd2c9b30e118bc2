"""``weldwatch bench``: what this machine can do, stage by stage and as a whole.

Invariants: measures the agent's own code, on the disk that is asked about; synthetic frames are called synthetic.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent.cli.bench.stages import Measured

CAMERA_FPS = 10.0  #: of the cameras that the advice speaks of
_EPILOG = """\
Results go into a folder for temporary files below --directory and are removed.
Measure on the disk that results are going to be on: a sync on an eMMC takes a
hundred times as long as on a memory file system. Run it while nothing else
does; beside a working agent both are slower.

examples:
  weldwatch bench --directory /var/lib/weldwatch
  weldwatch bench --bundle al5083-1.0.0.pipeline --frames captures/shift1 --json

next: its last line says what limits this machine, and what to do about it.
"""


def add_to(commands: Any) -> None:
    """Describe the command."""
    command: argparse.ArgumentParser = commands.add_parser(
        "bench",
        help="what this machine can do, stage by stage",
        description="Measure each stage from image to delivered result, then the whole agent, and say how many cameras "
        "this machine keeps up with. For who buys or sizes one; takes some ten seconds.",
        epilog=_EPILOG,
    )
    command.add_argument("--bundle", default="weld-demo", help="a .pipeline file (default: the shipped demo bundle)")
    command.add_argument("--frames", metavar="DIR", help="a folder of images (default: synthetic frames)")
    command.add_argument("--directory", metavar="DIR", help="on the disk to measure (default: for temporary files)")
    command.add_argument("--json", action="store_true", help="the figures as one JSON object")
    command.set_defaults(work=work)


def work(options: argparse.Namespace) -> int:
    """Measure, show, advise."""
    import json
    import logging
    import sys

    from rich.console import Console
    from rich.progress import Progress

    from agent.cli.bench.stages import Bench
    from agent.logs import LOGGER

    logging.getLogger(LOGGER).setLevel(logging.ERROR)  # single results are no news here
    errors = Console(stderr=True)
    with (
        Bench(options.bundle, options.frames, options.directory) as bench,
        Progress(console=errors, transient=True, disable=not errors.is_terminal) as progress,
    ):
        stages: list[tuple[str, Callable[[], list[Measured]]]] = list(bench.stages().items())
        task = progress.add_task("preparing", total=len(stages))
        measured: list[Measured] = []
        for name, stage in stages:
            progress.update(task, description=name)
            measured += stage()
            progress.advance(task)
        told = {
            "machine": bench.machine(),
            "frames": bench.frames_told,
            "synthetic": bench.synthetic,
            "bundle": bench.bundle_told,
            "stages": [one.as_json() for one in measured],
            "frames_per_second": bench.frames_per_second,
            "cameras": cameras(bench.frames_per_second),
            "advice": advice(bench.frames_per_second, measured),
        }
    if options.json:
        print(json.dumps(told, ensure_ascii=False))
    else:
        _show(told, measured)
    sys.stdout.flush()
    return 0


def cameras(frames_per_second: float) -> int:
    """How many cameras at ``CAMERA_FPS``, with a fifth of the machine left for bad moments."""
    return int(frames_per_second * 0.8 / CAMERA_FPS)


def advice(frames_per_second: float, measured: list[Measured]) -> str:
    """One or two sentences for who buys the machine."""
    many = cameras(frames_per_second)
    what = f"{many} cameras" if many != 1 else "1 camera"
    keeps_up = f"This machine keeps up with {what} at {CAMERA_FPS:g} frames a second ({frames_per_second:.0f} in all)"
    if many == 0:
        keeps_up = f"This machine does not keep up with a camera at {CAMERA_FPS:g} frames a second"
    path = [one for one in measured if one.on_the_way]
    slowest = max(path, key=lambda one: one.p50_ms)
    return f"{keeps_up}. {slowest.name} takes longest, {slowest.p50_ms:.1f} ms: {slowest.remedy}."


def _show(told: dict[str, Any], measured: list[Measured]) -> None:
    from agent.cli import tables
    from agent.logs import printable

    out = tables.console()
    for line in (told["machine"], told["frames"], told["bundle"]):
        out.print(printable(line))
    tables.show(("stage", "p50 ms", "p99 ms", "a second"), map(_row, measured), right=(1, 2, 3))
    out.print(printable(told["advice"]))


def _row(one: Measured) -> tuple[str, ...]:
    times = (f"{one.p50_ms:.2f}", f"{one.p99_ms:.2f}") if one.times_ms else ("", "")
    return (f"{one.name}: {one.note}" if one.note else one.name, *times, f"{one.per_second:.0f}")
