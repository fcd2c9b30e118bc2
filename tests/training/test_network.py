"""Every backbone and option goes through export and gives Keras's numbers; folds never look at what they report."""

from __future__ import annotations

import msgspec
import numpy as np
import onnxruntime
import pytest

from agent.bundle.preprocess import to_input
from agent.errors import UsageError
from training import dataset, folds
from training.dataset import Frames
from training.export import OUTPUTS, to_onnx
from training.fit import fit, frame_weights, margins
from training.parity import calibrated
from training.quantize import to_int8
from training.recipe import Model, Recipe

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorflow"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:keras"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:tf2onnx"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:onnx"),
]

replace = msgspec.structs.replace


@pytest.fixture(scope="module")
def frames(chain) -> Frames:
    return dataset.load(chain.out / "prepared").frames


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        Model(weights="random", alpha=0.25, mirrored=True, tone=0.7),
        Model(weights="random", backbone="mobilenet_v2", alpha=0.35),
        Model(weights="random", backbone="mobilenet_v3_small", alpha=1.0),
    ],
    ids=["mirrored and toned", "V2", "V3 small"],
)
def test_every_network_is_exported_as_it_is(model: Model, frames: Frames, recipe: Recipe) -> None:
    head_only = replace(recipe, model=model, train=replace(recipe.train, epochs=0))
    fitted = fit(frames, None, head_only, None, data_digest="").model
    temperature = 1.7
    graph = to_onnx(fitted, temperature)
    array = np.concatenate([to_input(gray) for gray in frames.gray[:8]])
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == list(OUTPUTS)
    found = session.run(None, {"input": array})[0]
    expected = calibrated(margins(fitted, frames.gray[:8]), temperature)
    np.testing.assert_allclose(found[:, 1], expected, atol=1e-4)
    small = to_int8(graph, frames.gray[:16])
    assert len(small) < 0.5 * len(graph)
    again = onnxruntime.InferenceSession(small, providers=["CPUExecutionProvider"]).run(None, {"input": array})[0]
    assert np.isfinite(again).all()
    np.testing.assert_allclose(again.sum(axis=1), 1, atol=1e-5)


def test_half_precision_fits_and_gives_float32(frames: Frames, recipe: Recipe) -> None:
    half = replace(recipe, train=replace(recipe.train, mixed_precision=True, epochs=1))
    fitted = fit(frames.take(np.arange(24)), None, half, None, data_digest="")
    assert fitted.model.get_layer("logits").compute_dtype == "float32"
    assert fitted.model.get_layer("backbone").get_layer("conv1").compute_dtype == "float16"
    assert np.isfinite(margins(fitted.model, frames.gray[:4])).all()


def test_classes_and_recordings_weigh_the_same_where_they_should(frames: Frames, recipe: Recipe) -> None:
    weights = frame_weights(frames, replace(recipe.train, recording_weights=True))
    assert weights.mean() == pytest.approx(1)
    assert weights[frames.bad].sum() == pytest.approx(weights[~frames.bad].sum())
    sums = [weights[(frames.recording == one) & ~frames.bad].sum() for one in np.unique(frames.recording)]
    counts = [(frames.recording == one).sum() for one in np.unique(frames.recording)]
    good = [((frames.recording == one) & ~frames.bad).sum() for one in np.unique(frames.recording)]
    shares = [total / (part / count) for total, part, count in zip(sums, good, counts, strict=True) if part]
    assert np.ptp(shares) == pytest.approx(0, abs=1e-9)


def test_folds_choose_inside_and_report_outside(frames: Frames, recipe: Recipe, monkeypatch) -> None:
    plain = replace(recipe, train=replace(recipe.train, epochs=0))
    recipes = {"one": plain, "other": replace(plain, train=replace(plain.train, head_strength=0.01))}
    asked: list[set[str]] = []
    choose = folds._choose

    def watched(all_frames, methods, train, seed):
        asked.append({str(one) for one in all_frames.recording[train]})
        return choose(all_frames, methods, train, seed)

    monkeypatch.setattr(folds, "_choose", watched)
    found = folds.cross_validate(frames, recipes, folds=3, seeds=1)
    assert list(found.margins) == [folds.NESTED, "one", "other", "probe: mobilenet_v1 0.25, random"]
    nested = found.margins[folds.NESTED][0]
    everything = {str(one) for one in frames.recording}
    for train in asked:
        outside = np.array([str(one) not in train for one in frames.recording])
        assert outside.any()
        assert any(np.array_equal(nested[outside], found.margins[name][0][outside]) for name in recipes)
    assert set().union(*(everything - train for train in asked)) == everything
    figure = found.figures["figures"][folds.NESTED]
    assert figure["auc"]["low"] <= figure["auc"]["value"] <= figure["auc"]["high"]


def test_too_few_recordings_for_the_folds_are_refused(frames: Frames, recipe: Recipe) -> None:
    few = frames.take(np.isin(frames.recording, np.unique(frames.recording)[:2]))
    with pytest.raises(UsageError, match="at least one a fold"):
        folds.cross_validate(few, {"one": recipe}, folds=5, seeds=1)
