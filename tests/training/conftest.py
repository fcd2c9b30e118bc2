"""A small synthetic set and one whole training on it, made once: random weights, alpha 0.25, so that no test needs a
download and the chain takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from training.recipe import Recipe, load_recipe
from training.synthetic import synthesize

SMALL = """\
name: tiny
version: 0.1.0
classes: [good weld, burn through, contamination, lack of fusion, misalignment, lack of penetration]
data: {train: 40, val: 20, test: 20}
model: {alpha: 0.25, weights: random}
train: {head_copies: 0, epochs: 2, batch: 16, rate: 1.0e-3}
decision: {draws: 200}
export: {golden: 4, calibration_frames: 16}
"""


@dataclass(frozen=True)
class Chain:
    """What `weldwatch-train all` left."""

    out: Path
    bundle: Path


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """15 synthetic recordings of 12 frames in the Kaggle layout."""
    folder = tmp_path_factory.mktemp("raw") / "frames"
    synthesize(folder, recordings=15, frames=12, seed=3, size=(160, 195), workers=1)
    return folder


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small recipe as a file."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(SMALL, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def recipe(recipe_file: Path) -> Recipe:
    """The small recipe."""
    return load_recipe(recipe_file)


@pytest.fixture(scope="session")
def chain(raw: Path, recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """One run of `weldwatch-train all`, in this process."""
    from training.cli import main

    out = tmp_path_factory.mktemp("out")
    code = main(["all", "--recipe", str(recipe_file), "--data", str(raw), "--out", str(out), "--workers", "1"])
    assert code == 0
    return Chain(out, out / "tiny-0.1.0.pipeline")


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run weldwatch-train with arguments that must be refused with exit code 2; returns its last line.

    Only notes may stand above it.
    """

    def run(*arguments: object) -> str:
        from training.cli import main

        assert main([str(one) for one in arguments]) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert [line for line in said if not line.startswith("weldwatch-train: note: ")] == said[-1:]
        assert said[-1].startswith("weldwatch-train: ")
        return said[-1]

    return run


def with_data(recipe: Recipe, **changes: object) -> Recipe:
    """The recipe with other `data`."""
    return msgspec.structs.replace(recipe, data=msgspec.structs.replace(recipe.data, **changes))
