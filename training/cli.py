"""weldwatch-train: recordings of welding in, a pipeline bundle that can be defended out.

Exit codes: 0 done, 1 the work failed, 2 wrong usage, recipe or data (one line that says what to do). TensorFlow is
loaded only by the commands that compute with it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from agent.errors import UsageError, WeldwatchError
from training.recipe import BUILT_IN, DEFAULT, Recipe, load_recipe

_ALL = """\
examples:
  weldwatch-train synthesize --out frames/ --recordings 72 --frames 60     drawn frames, to try everything with
  weldwatch-train all --recipe demo --data frames/ --out out/              frames to bundle and report
  weldwatch-train all --recipe aluminium --data al5083/ --out out/ --weights mobilenet_5_0_160_tf_no_top.h5
  weldwatch-train evaluate --bundle out/al5083-1.0.0.pipeline --data al5083/
"""
_DATA = (
    "raw frames (the Kaggle layout with train/train.json, a folder per class, or a CSV path,label,recording), "
    "or a set that prepare has made"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    # TensorFlow and oneDNN announce themselves on stderr unless told before they are loaded.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        return code
    except UsageError as error:
        return _say(error, 2)
    except WeldwatchError as error:
        return _say(error, 1)
    except OSError as error:
        return _say(error, 1)
    except KeyboardInterrupt:
        return _say("interrupted; the same command with --resume goes on", 130)


def _say(what: object, code: int) -> int:
    sys.stderr.write(f"weldwatch-train: {' '.join(str(what).split())}\n")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="weldwatch-train", description="From recordings of welding to a pipeline bundle.", epilog=_ALL,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, summary: str, run: object) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        one.set_defaults(run=run)
        return one

    one = add("synthesize", "draw recordings to try everything with; they say nothing of real welds", _synthesize)
    one.add_argument("--out", type=Path, required=True, help="a new folder")
    one.add_argument("--recordings", type=_count, default=72)
    one.add_argument("--frames", type=_count, default=60, help="of each recording")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--size", type=_size, default=(800, 974), metavar="WxH", help="pixels (default 800x974)")
    one.add_argument("--workers", type=_count, help="processes (default: all processors)")

    one = add("prepare", "split frames by recording and bring them to 128×128 gray, with digests", _prepare)
    _common(one, data="raw frames, in any of the layouts", out="a new folder for the set")
    _quotas(one)

    one = add("train", "fit the recipe's network, keeping a checkpoint after every epoch", _train)
    _common(one, data=_DATA, out="folder of the run")
    _quotas(one)
    _fitting(one)

    one = add("evaluate", "measure a bundle on labelled frames, or recipes by grouped cross-validation", _evaluate)
    one.add_argument("--data", type=Path, required=True, help=_DATA)
    one.add_argument("--bundle", type=Path, help="the .pipeline file to measure, through the agent's own session")
    one.add_argument(
        "--side", choices=["train", "val", "test"], default="test", help="of a prepared set (default test)"
    )
    one.add_argument("--seen-too", action="store_true", help="also the recordings that taught or tuned the bundle")
    one.add_argument(
        "--folds", type=_count, metavar="K", help="cross-validate recipes by recording instead; small sets"
    )
    one.add_argument("--recipe", action="append", help="with --folds; several: the choice is made inside the folds")
    one.add_argument("--seeds", type=_count, default=3, help="with --folds: how often, with other folds (default 3)")
    one.add_argument("--weights", metavar="PATH", action="append", help="with --folds: for each --recipe in turn")
    one.add_argument("--out", type=Path, help="folder for evaluation.html and evaluation.json")
    one.add_argument("--workers", type=_count, help="processes that read frames (default: all processors)")
    one.add_argument("--json", action="store_true", help="all figures as JSON on stdout")

    one = add("export", "write the trained model as ONNX files", _export)
    one.add_argument("--data", type=Path, help="the prepared set (default: OUT/prepared)")
    one.add_argument("--out", type=Path, required=True, help="folder of the run")

    one = add("bundle", "measure the trained model and make its bundle and report", _bundle)
    one.add_argument("--data", type=Path, help="the prepared set (default: OUT/prepared)")
    one.add_argument("--out", type=Path, required=True, help="folder of the run")

    one = add("all", "frames to bundle: prepare, train, export, evaluate, bundle", _all)
    _common(one, data=_DATA, out="folder for everything; the bundle and report.html end there")
    _quotas(one)
    _fitting(one)
    return parser


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
    one.add_argument("--seed", type=_natural, help="another draw of the split, and of everything after it")
    one.add_argument("--workers", type=_count, help="processes that read frames (default: all processors)")


def _fitting(one: argparse.ArgumentParser) -> None:
    one.add_argument("--weights", metavar="PATH", help="start from this file, or: imagenet, random")
    one.add_argument("--epochs", type=_natural, help="of fine-tuning, at most")
    one.add_argument("--resume", action="store_true", help="go on with the training that OUT holds")


def _recipe(options: argparse.Namespace) -> Recipe:
    """The recipe with what the command line says over it."""
    recipe = load_recipe(options.recipe)
    given = vars(options)
    data = {side: given[side][0] for side in ("train", "val", "test") if given.get(side) is not None}
    if options.split:
        data["split"] = options.split
    replace = msgspec.structs.replace
    recipe = replace(recipe, data=replace(recipe.data, **data))
    if given.get("weights"):
        recipe = replace(recipe, model=replace(recipe.model, weights=given["weights"]))
    if given.get("epochs") is not None:
        recipe = replace(recipe, train=replace(recipe.train, epochs=given["epochs"]))
    return recipe if options.seed is None else replace(recipe, seed=options.seed)


def _synthesize(options: argparse.Namespace) -> int:
    from training.progress import shown
    from training.synthetic import synthesize

    with shown() as tell:
        made = synthesize(
            options.out, recordings=options.recordings, frames=options.frames, seed=options.seed, size=options.size,
            workers=options.workers, progress=lambda done, total: tell("frames", done, total, ""),
        )  # fmt: skip
    counts = ", ".join(f"{name} {count}" for name, count in made.kinds.items())
    print(f"{made.directory}: {made.frames} frames of {made.recordings} recordings in {made.seconds:.0f} s ({counts})")
    return 0


def _prepare(options: argparse.Namespace) -> int:
    from training.prepare import prepare
    from training.progress import shown

    recipe = _recipe(options)
    with shown() as tell:
        index = prepare(
            options.data, options.out, recipe, workers=options.workers,
            progress=lambda done, total: tell("frames", done, total, ""),
        )  # fmt: skip
    _warn(index.warnings)
    for side in ("train", "val", "test"):
        mine = [frame for frame in index.frames if frame.split == side]
        bad = sum(frame.label for frame in mine)
        recordings = len({frame.recording for frame in mine})
        print(f"{side:<5} {len(mine) - bad:>6} no defect {bad:>6} defect, {recordings} recordings")
    print(f"{options.out}: look at contact-sheet.png; data digest {index.digest[:16]}")
    return 0


def _train(options: argparse.Namespace) -> int:
    from training import chain
    from training.progress import shown

    recipe = _recipe(options)
    with shown() as tell:
        data = chain.open_set(options.data, options.out, recipe, tell, options.workers)
        _warn(data.index.warnings)
        chain.train(data, options.out, recipe, tell, resume=options.resume)
    print(f"{options.out / chain.RUN}: trained; weldwatch-train bundle --out {options.out} makes the bundle")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from training import assess, report
    from training.progress import shown

    if (options.bundle is None) == (options.folds is None):
        raise UsageError("evaluate: give either --bundle FILE (measure it) or --folds K (cross-validate recipes)")
    with shown() as tell:
        if options.bundle is not None:
            found = assess.assess(
                options.bundle, options.data, side=options.side, seen_too=options.seen_too, workers=options.workers,
                tell=tell,
            )  # fmt: skip
        else:
            recipes = _fold_recipes(options)
            found = assess.folds(
                options.data, recipes, folds=options.folds, seeds=options.seeds, workers=options.workers, tell=tell
            )
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        page = report.render(found.metrics, found.about, found.frames, found.defect)
        (options.out / "evaluation.html").write_text(page, encoding="utf-8")
        (options.out / "evaluation.json").write_bytes(report.as_json(found.metrics))
    if options.json:
        print(msgspec.json.encode(found.metrics).decode())
        return 0
    for line in [*found.about.notes, *report.lines(found.metrics)]:
        print(line)
    if options.out is not None:
        print(f"the report is {options.out / 'evaluation.html'}")
    return 0


def _fold_recipes(options: argparse.Namespace) -> list[Recipe]:
    recipes = [load_recipe(one) for one in options.recipe or [DEFAULT]]
    weights = options.weights or []
    if len(weights) > len(recipes):
        raise UsageError(f"{len(weights)} --weights for {len(recipes)} --recipe; give one for each recipe, in order")
    replace = msgspec.structs.replace
    for at, path in enumerate(weights):
        recipes[at] = replace(recipes[at], model=replace(recipes[at].model, weights=path))
    return recipes


def _export(options: argparse.Namespace) -> int:
    from training import chain, dataset

    for path in chain.export(dataset.load(options.data or options.out / chain.PREPARED), options.out):
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
    return 0


def _bundle(options: argparse.Namespace) -> int:
    from training import chain, dataset
    from training.progress import shown

    with shown() as tell:
        made = chain.bundle(dataset.load(options.data or options.out / chain.PREPARED), options.out, tell)
    _tell_bundle(made.path, made.metrics)
    return 0


def _all(options: argparse.Namespace) -> int:
    from training import chain
    from training.progress import shown

    recipe = _recipe(options)
    with shown() as tell:
        data = chain.open_set(options.data, options.out, recipe, tell, options.workers)
        _warn(data.index.warnings)
        chain.train(data, options.out, recipe, tell, resume=options.resume)
        made = chain.bundle(data, options.out, tell)
    _tell_bundle(made.path, made.metrics)
    return 0


def _warn(warnings: Sequence[str]) -> None:
    for warning in warnings:
        sys.stderr.write(f"weldwatch-train: note: {warning}\n")


def _tell_bundle(path: Path, metrics: dict[str, object]) -> None:
    from training.report import lines

    for line in lines(metrics):
        print(line)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB; the report is {path.parent / 'report.html'}")


def _count(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return value


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _quota(text: str) -> tuple[int | None]:
    return (None,) if text == "all" else (_count(text),)


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, such as 800x974")
    return int(width), int(height)


if __name__ == "__main__":
    sys.exit(main())
