"""weldwatch-train: recordings of welding in, a pipeline bundle that can be defended out.

Exit codes: 0 done, 1 the work failed, 2 wrong usage, recipe or data (one line that says what to do). TensorFlow is
loaded only by the commands that compute with it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from agent.errors import UsageError, WeldwatchError
from training import needs
from training.parser import parser
from training.recipe import DEFAULT, Recipe, load_recipe

if TYPE_CHECKING:
    from training.dataset import Dataset, DatasetIndex
    from training.fit import Tell


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        needs.check(options)
        return COMMANDS[options.command](options)
    except UsageError as error:
        return _say(error, 2)
    except WeldwatchError as error:
        return _say(error, 1)
    except OSError as error:
        return _say(f"{error.filename}: {error.strerror}" if error.filename else error, 1)
    except KeyboardInterrupt:
        return _say("interrupted; the same command with --resume goes on", 130)


def _say(what: object, code: int) -> int:
    sys.stderr.write(f"weldwatch-train: {' '.join(str(what).split())}\n")
    return code


def _recipe(options: argparse.Namespace) -> Recipe:
    """The recipe with what the command line says over it."""
    recipe = load_recipe(options.recipe)
    given = vars(options)
    data = {side: given[side][0] for side in ("train", "val", "test") if given.get(side) is not None}
    if options.split:
        data["split"] = options.split
    replace = msgspec.structs.replace
    recipe = replace(recipe, data=replace(recipe.data, **data))
    model = {key: given[key] for key in ("weights", "weights_origin", "weights_licence") if given.get(key)}
    recipe = replace(recipe, model=replace(recipe.model, **model))
    if given.get("epochs") is not None:
        recipe = replace(recipe, train=replace(recipe.train, epochs=given["epochs"]))
    recipe = replace(recipe, **_called(options))
    return recipe if options.seed is None else replace(recipe, seed=options.seed)


def _called(options: argparse.Namespace) -> dict[str, str]:
    """Name and version of the bundle, where the command line gives them."""
    given = vars(options)
    return {key: given[key] for key in ("name", "version") if given.get(key)}


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
    _warn(index, strict=options.strict)
    for side in ("train", "val", "test"):
        mine = [frame for frame in index.frames if frame.split == side]
        bad = sum(frame.label for frame in mine)
        recordings = len({frame.recording for frame in mine})
        print(f"{side:<5} {len(mine) - bad:>6} no defect {bad:>6} defect, {recordings} recordings")
    print(f"{options.out}: look at contact-sheet.png; data digest {index.digest[:16]}")
    return 0


def _train(options: argparse.Namespace) -> int:
    from training.chain import RUN
    from training.progress import shown

    with shown() as tell:
        _fit(options, tell)
    print(f"{options.out / RUN}: trained; weldwatch-train bundle --out {options.out} makes the bundle")
    return 0


def _fit(options: argparse.Namespace, tell: Tell) -> Dataset:
    """Frames to the trained model in the folder of the run; returns the set that it was trained on."""
    from training import chain
    from training.quiet import load_tensorflow

    recipe = _recipe(options)
    chain.check_start(options.out, recipe, resume=options.resume)
    data = chain.open_set(options.data, options.out, recipe, tell, options.workers)
    _warn(data.index, strict=options.strict)
    load_tensorflow()
    chain.train(data, options.out, recipe, tell, resume=options.resume)
    return data


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
        _warn_unfit(found.metrics)
        return 0
    for line in [*found.about.notes, *report.lines(found.metrics)]:
        print(line)
    if options.out is not None:
        print(f"the report is {options.out / 'evaluation.html'}")
    _warn_unfit(found.metrics)
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
    from training.quiet import load_tensorflow

    data = dataset.load(options.data or options.out / chain.PREPARED)
    load_tensorflow()
    for path in chain.export(data, options.out):
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
    return 0


def _bundle(options: argparse.Namespace) -> int:
    from training import chain, dataset
    from training.progress import shown
    from training.quiet import load_tensorflow

    data = dataset.load(options.data or options.out / chain.PREPARED)
    load_tensorflow()
    with shown() as tell:
        made = chain.bundle(data, options.out, tell, **_called(options))
    _tell_bundle(made.path, made.metrics)
    return 0


def _all(options: argparse.Namespace) -> int:
    from training import chain
    from training.progress import shown

    with shown() as tell:
        made = chain.bundle(_fit(options, tell), options.out, tell)
    _tell_bundle(made.path, made.metrics)
    return 0


def _warn(index: DatasetIndex, *, strict: bool) -> None:
    """Say what is odd about the data. Raises UsageError for it where the caller is strict."""
    from training.dataset import short_table

    if strict and index.warnings:
        raise UsageError(
            f"--strict: {'; '.join(index.warnings)}. Mend the data (and remove the prepared set), or leave --strict out"
        )
    for line in [*index.warnings, *short_table(index)]:
        sys.stderr.write(f"weldwatch-train: note: {line}\n")


def _tell_bundle(path: Path, metrics: dict[str, Any]) -> None:
    from training.report import lines

    for line in lines(metrics):
        print(line)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB; the report is {path.parent / 'report.html'}")
    _warn_unfit(metrics)


def _warn_unfit(metrics: dict[str, Any]) -> None:
    """The last line, and loud: a model that is of no use."""
    if metrics.get("not_fit"):
        start, end = ("\x1b[1;37;41m", "\x1b[0m") if sys.stderr.isatty() else ("", "")
        sys.stderr.write(f"weldwatch-train: {start}{metrics['not_fit']}{end}\n")


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "synthesize": _synthesize, "prepare": _prepare, "train": _train, "evaluate": _evaluate, "export": _export,
    "bundle": _bundle, "all": _all,
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
