"""``weldwatch predict``: images in, verdicts out, without a station."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.usage import examples

if TYPE_CHECKING:
    from agent.frame import Frame
    from agent.result import Result

_MAX_FILE = 256 << 20

_EPILOG = examples(
    "weldwatch predict weld.png",
    "weldwatch predict captures/ --bundle al5083-1.0.0.pipeline",
    "weldwatch predict captures/ --out verdicts/ --json",
    then="weldwatch bundle inspect weld-demo says what the bundle was trained on and how good it is; weldwatch "
    "run does this for a camera's folder, all day.",
)


def add_to(commands: Any) -> None:
    """Describe the command."""
    command: argparse.ArgumentParser = commands.add_parser(
        "predict",
        help="judge images once, without a station",
        description="Judge images with a bundle and show class, probability and verdict of each. "
        "Folders are searched for images. To try a bundle on frames of yours. Exit code 1 if any image cannot be "
        "inspected.",
        epilog=_EPILOG,
    )
    command.add_argument("paths", metavar="PATH", nargs="+", type=Path, help="image files or folders of them")
    command.add_argument("--bundle", default="weld-demo", help="a .pipeline file (default: the shipped demo bundle)")
    command.add_argument("--out", metavar="DIR", type=Path, help="also write <image stem>_<timestamp>.json each, here")
    command.add_argument("--json", action="store_true", help="one result a line, as the agent publishes it")
    command.set_defaults(work=work)


def work(options: argparse.Namespace) -> int:
    """Judge every image."""
    import msgspec

    from agent.app.places import make_folder
    from agent.clock import SystemClock
    from agent.delivery.file_names import write_result_file
    from agent.errors import UsageError
    from agent.inspection import inspect
    from agent.logs import printable
    from agent.model.loading import load
    from agent.model.store import resolve

    images = list(_images(options.paths))
    if not images:
        raise UsageError(f"no images below {', '.join(map(str, options.paths))}; looked for {', '.join(_SUFFIXES)}")
    if options.out is not None:
        make_folder(options.out, "--out")
    loaded = load(resolve(options.bundle))
    if loaded.notice:
        print(f"weldwatch: bundle {loaded.model.facts.name}: {printable(loaded.notice)}", file=sys.stderr)
    clock = SystemClock()
    results = (inspect(_frame(path), loaded.model, None, clock) for path in images)
    shown = _as_lines(results) if options.json else _as_table(results, len(images))
    unreadable = 0
    for path, result in zip(images, shown, strict=True):
        unreadable += result.probability is None
        if options.out is not None:
            write_result_file(options.out, path.name, result.created_at, msgspec.json.encode(result))
    return 1 if unreadable else 0


_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".pgm", ".ppm", ".webp")


def _images(paths: Sequence[Path]) -> Iterator[Path]:
    from agent.errors import UsageError

    for path in paths:
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
        elif path.exists():
            yield path
        else:
            raise UsageError(f"{path}: no such file or folder")


def _frame(path: Path) -> Frame:
    """One file as a frame; what cannot be read or decoded becomes its problem."""
    import hashlib
    import os
    from datetime import datetime, timezone

    from agent.errors import ImageError
    from agent.frame import Frame, readable_name
    from agent.image import decode

    data, picture, problem, taken = b"", None, None, datetime.now(timezone.utc)
    started = time.perf_counter()
    try:
        with path.open("rb") as file:
            taken = datetime.fromtimestamp(os.fstat(file.fileno()).st_mtime, timezone.utc)
            data = file.read(_MAX_FILE + 1)
        if len(data) > _MAX_FILE:
            raise ImageError("file_too_large", f"more than {_MAX_FILE >> 20} MB")
        picture = decode(data)
    except OSError as error:
        problem = ImageError("unreadable_file", error.strerror or str(error))
    except ImageError as error:
        problem = error
    return Frame(
        source="predict",
        name=readable_name(os.fsencode(path)),
        key=b"",
        captured_at=taken,
        captured_from="mtime",
        picture=picture,
        problem=problem,
        sha256=hashlib.sha256(data).hexdigest() if data else None,
        bytes=len(data) if data else None,
        decode_ms=(time.perf_counter() - started) * 1e3,
    )


def _as_lines(results: Iterator[Result]) -> Iterator[Result]:
    import msgspec

    for result in results:
        sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
        yield result


def _as_table(results: Iterator[Result], count: int) -> Iterator[Result]:
    """A table for people; a progress bar while it fills, when there is a terminal to show it on."""
    from rich.console import Console
    from rich.progress import track
    from rich.text import Text

    from agent.cli import tables

    rows: list[tuple[str | Text, ...]] = []
    errors = Console(stderr=True)
    for result in track(results, "judging", count, console=errors, transient=True, disable=not errors.is_terminal):
        reason = result.reasons[0]
        why = (
            f"{reason.code} {reason.detail or ''}"
            if result.evaluation == "NotDecidable"
            else f"limit {reason.limit:.3f}"
        )
        value = "" if reason.value is None else f"{reason.value:.4f}"
        colour = {"OK": "green", "NotOK": "red"}.get(result.evaluation, "yellow")
        evaluation = Text(result.evaluation, colour)
        rows.append((result.image.name, evaluation, result.class_ or "–", value, f"{result.timing_ms.total:.1f}", why))
        yield result
    tables.show(("image", "evaluation", "class", "defect", "ms", "why"), rows, right=(3, 4))
