"""The command line of weldwatch-train: what may be said, and what it means. No work is done here, and little
imported.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from agent.bundle.manifest import Name, Version
from agent.usage import Parser, number
from training.pages import PAGES
from training.recipe import BUILT_IN, DEFAULT

_ALL = """\
examples:
  weldwatch-train synthesize --out frames/
  weldwatch-train all --recipe demo --data frames/ --out out/
  weldwatch-train evaluate --bundle out/weld-demo-1.0.0.pipeline --data frames/
  weldwatch-train all --recipe aluminium --data al5083/ --out al/

Each command has its own help: weldwatch-train all --help. On the station goes
weldwatch bundle install weld-demo-1.0.0.pipeline.
"""
_DATA = (
    "raw frames (the Kaggle layout with train/train.json, a folder per class, or a CSV path,label,recording), "
    "or a set that prepare has made"
)
_COUNT, _NATURAL = number(int, 1), number(int, 0)


def parser() -> Parser:
    """The command line of weldwatch-train."""
    top = Parser(
        prog="weldwatch-train", description="From recordings of welding to a pipeline bundle.", epilog=_ALL
    )  # fmt: skip
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, summary: str) -> argparse.ArgumentParser:
        about, end = PAGES[name]
        return commands.add_parser(name, help=summary, description=about, epilog=end)

    _synthesizing(add("synthesize", "draw recordings to try everything with; they say nothing of real welds"))

    one = add("prepare", "split frames by recording and bring them to 128×128 gray, with digests")
    _common(one, data="raw frames, in any of the layouts", out="a new folder for the set")
    _quotas(one)

    one = add("train", "fit the recipe's network, keeping a checkpoint after every epoch")
    _common(one, data=_DATA, out="folder of the run")
    _quotas(one)
    _fitting(one)
    _naming(one)

    _evaluating(add("evaluate", "measure a bundle on labelled frames, or recipes by grouped cross-validation"))
    _of_a_run(add("export", "write the trained model as ONNX files"))
    one = add("bundle", "measure the trained model and make its bundle and report")
    _of_a_run(one)
    _naming(one)

    one = add("all", "frames to bundle: prepare, train, export, evaluate, bundle")
    _common(one, data=_DATA, out="folder for everything; the bundle and report.html end there")
    _quotas(one)
    _fitting(one)
    _naming(one)
    return top


def _synthesizing(one: argparse.ArgumentParser) -> None:
    one.add_argument("--out", type=Path, required=True, help="a new folder")
    one.add_argument("--recordings", type=_COUNT, default=72, help="how many (default 72)")
    one.add_argument("--frames", type=_COUNT, default=60, help="of each recording (default 60)")
    one.add_argument("--seed", type=_NATURAL, default=0, help="other welds with another number (default 0)")
    one.add_argument("--size", type=_size, default=(800, 974), metavar="WxH", help="pixels (default 800x974)")
    one.add_argument("--workers", type=_COUNT, help="processes (default: all processors)")


def _evaluating(one: argparse.ArgumentParser) -> None:
    one.add_argument("--data", type=Path, required=True, help=_DATA)
    one.add_argument("--bundle", type=Path, help="the .pipeline file to measure, through the agent's own session")
    one.add_argument(
        "--side", choices=["train", "val", "test"], default="test", help="of a prepared set (default test)"
    )
    one.add_argument("--seen-too", action="store_true", help="also the recordings that taught or tuned the bundle")
    one.add_argument(
        "--folds", type=_COUNT, metavar="K", help="cross-validate recipes by recording instead; small sets"
    )
    one.add_argument("--recipe", action="append", help="with --folds; several: the choice is made inside the folds")
    one.add_argument("--seeds", type=_COUNT, default=3, help="with --folds: how often, with other folds (default 3)")
    one.add_argument("--weights", metavar="PATH", action="append", help="with --folds: for each --recipe in turn")
    one.add_argument("--out", type=Path, help="folder for evaluation.html and evaluation.json")
    one.add_argument("--workers", type=_COUNT, help="processes that read frames (default: all processors)")
    one.add_argument("--json", action="store_true", help="all figures as JSON on stdout")


def _of_a_run(one: argparse.ArgumentParser) -> None:
    one.add_argument("--data", type=Path, help="the prepared set (default: OUT/prepared)")
    one.add_argument("--out", type=Path, required=True, help="folder of the run")


def _common(one: argparse.ArgumentParser, *, data: str, out: str) -> None:
    known = ", ".join(sorted(path.stem for path in BUILT_IN.glob("*.yaml")))
    one.add_argument("--recipe", default=DEFAULT, help=f"a YAML file, or one of: {known} (default {DEFAULT})")
    one.add_argument("--data", type=Path, required=True, help=data)
    one.add_argument("--out", type=Path, required=True, help=out)


def _quotas(one: argparse.ArgumentParser) -> None:
    for side in ("train", "val", "test"):
        told = f"frames of each of the two classes in {side}, or all"
        one.add_argument(f"--{side}", type=_quota, metavar="N", help=told)
    one.add_argument(
        "--split", choices=["recording", "given", "frame"],
        help="by recording; given: the set's own test/ stays test; frame: the usual leaky split, for comparison only",
    )  # fmt: skip
    one.add_argument("--seed", type=_NATURAL, help="another draw of the split, and of everything after it")
    one.add_argument(
        "--strict", action="store_true", help="what is only noted of the data otherwise (repeats, frames that cannot "
        "be read, a class in one recording, too few recordings or frames) is an error, and nothing is trained",
    )  # fmt: skip
    one.add_argument("--workers", type=_COUNT, help="processes that read frames (default: all processors)")


def _fitting(one: argparse.ArgumentParser) -> None:
    one.add_argument("--weights", metavar="PATH", help="start from this file, or: imagenet, random")
    one.add_argument("--weights-origin", metavar="TEXT", help="where a file comes from, for the bundle's manifest")
    one.add_argument("--weights-licence", metavar="TEXT", help="and its licence; both, where its digest is not known")
    one.add_argument("--epochs", type=_NATURAL, help="of fine-tuning, at most")
    one.add_argument("--resume", action="store_true", help="go on with the training that OUT holds")


def _naming(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--name", type=_fitting_manifest(Name, "letters, digits, '.', '_' and '-', 64 at most"),
        help="of the bundle made, <name>-<version>.pipeline (default: the recipe's name)",
    )  # fmt: skip
    one.add_argument(
        "--version", type=_fitting_manifest(Version, "three numbers, such as 1.2.0"), metavar="X.Y.Z",
        help="of the bundle made (default: the recipe's version, 1.0.0 unless it says otherwise)",
    )  # fmt: skip


def _fitting_manifest(kind: Any, allowed: str) -> Callable[[str], str]:
    """An argument's type: what a manifest takes."""

    def of(text: str) -> str:
        try:
            return str(msgspec.convert(text, kind))
        except msgspec.ValidationError:
            raise argparse.ArgumentTypeError(f"found {text!r}; {allowed}") from None

    return of


def _quota(text: str) -> tuple[int | None]:
    return (None,) if text == "all" else (int(_COUNT(text)),)


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, such as 800x974")
    return int(width), int(height)
