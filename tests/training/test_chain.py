"""From frames to a bundle that the agent takes, with all real parts and random weights."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.bundle.archive import Archive
from agent.bundle.postprocess import decide
from agent.bundle.preprocess import to_input
from agent.model.session import OnnxModel, self_test
from agent.ports import Decision
from tests.training.conftest import Chain
from training import assess, dataset, evaluate, fitness, plots
from training.cli import main
from training.recipe import Recipe

#: What a person says of weights that no digest tells of.
OWN = ("--weights-origin", "made here", "--weights-licence", "CC0-1.0")

pytestmark = [
    # tf2onnx, Keras and TensorFlow speak of their own future; each filter names who.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorflow"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:keras"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:tf2onnx"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:onnx"),
]


def test_the_bundle_is_one_that_the_agent_takes(chain: Chain) -> None:
    with Archive(chain.bundle) as archive:
        manifest = archive.manifest
        assert list(manifest.variants) == ["fp32", "int8"]
        for variant in manifest.variants:
            deviation, _ = self_test(archive, OnnxModel(archive, variant))
            assert deviation == pytest.approx(0, abs=1e-6)
        assert {"weldingPreProcessing.py", "weldingPostProcessing.py"} <= manifest.files.keys()
        assert json.loads(archive.read("report/metrics.json"))["synthetic"] is True
        assert b"SYNTHETIC" in archive.read("report/report.html")
    assert manifest.training.synthetic
    assert "must not judge real welds" in (manifest.notice or "")
    assert manifest.training.weights.name == "random"
    assert len(manifest.golden) >= 2


def test_the_manifest_says_enough_to_repeat_and_defend(chain: Chain, recipe: Recipe) -> None:
    with Archive(chain.bundle) as archive:
        facts = archive.manifest.training
    data = dataset.read_index(chain.out / "prepared")
    assert facts.data["digest"] == data.digest
    assert msgspec.convert(facts.recipe, Recipe) == recipe
    sides = facts.data["recordings"]
    assert not set(sides["train"]) & set(sides["test"])
    for one in facts.metrics["variants"].values():
        assert {"value", "low", "high", "recordings"} <= one["test"]["auc"].keys()
        assert one["promised"]["escapes"]["recordings"] == len(sides["val"])
    assert {"tensorflow", "keras", "numpy"} <= facts.made_with.keys()


def test_each_variant_has_its_own_decision_chosen_on_validation(chain: Chain) -> None:
    data = dataset.load(chain.out / "prepared").split("val")
    with Archive(chain.bundle) as archive:
        for name, variant in archive.manifest.variants.items():
            assert variant.decision is not None
            model = OnnxModel(archive, name)
            found = evaluate.defect_probability(evaluate.probabilities(model, data.gray), [0])
            target = archive.manifest.training.metrics["variants"][name]["promised"]["target"]
            assert np.mean(found[data.bad] < variant.decision.threshold) <= target


def test_keras_and_the_agent_agree(chain: Chain) -> None:
    import keras

    from training.fit import margins
    from training.parity import calibrated

    model = keras.models.load_model(chain.out / "run" / "model.keras")
    frames = dataset.load(chain.out / "prepared").split("test")
    with Archive(chain.bundle) as archive:
        rule = archive.manifest.variants["fp32"].decision
        assert rule is not None
        found = evaluate.probabilities(OnnxModel(archive, "fp32"), frames.gray)[:, 1]
    expected = calibrated(margins(model, frames.gray), rule.temperature)
    assert np.max(np.abs(found - expected)) <= 1e-4


def test_each_variant_has_the_calibration_that_suits_it(chain: Chain) -> None:
    """What is folded into a variant leaves nothing to fit on validation; the manifest says what it was."""
    from training import statistics

    frames = dataset.load(chain.out / "prepared").split("val")
    with Archive(chain.bundle) as archive:
        for name, variant in archive.manifest.variants.items():
            found = evaluate.probabilities(OnnxModel(archive, name), frames.gray).astype(np.float64)
            margin = np.log(found[:, 1]) - np.log(found[:, 0])
            assert variant.decision is not None
            if name == "fp32":
                assert statistics.fit_temperature(margin, frames.bad) == pytest.approx(1, abs=0.02)
                assert variant.decision.shift == 0
            else:
                temperature, shift = statistics.fit_temperature_and_shift(margin, frames.bad)
                assert (temperature, shift) == (pytest.approx(1, abs=0.02), pytest.approx(0, abs=0.02))
            told = archive.manifest.training.metrics["variants"][name]["temperature"]
            assert told == variant.decision.temperature


def test_the_activation_map_adds_up_to_the_margin(chain: Chain) -> None:
    frames = dataset.load(chain.out / "prepared").split("test")
    with Archive(chain.bundle) as archive:
        model = OnnxModel(archive, "fp32")
        outputs = model.outputs(np.concatenate([to_input(gray) for gray in frames.gray]))
    assert list(outputs) == ["probability", "activation_map", "embedding"]
    probability = outputs["probability"].astype(np.float64)
    margin = np.log(probability[:, 1]) - np.log(probability[:, 0])
    bias = margin - outputs["activation_map"].mean(axis=(1, 2))
    assert np.ptp(bias) < 1e-3


def test_the_report_tells_the_story_in_words(chain: Chain) -> None:
    page = (chain.out / "report.html").read_text()
    assert "Started from random: random initialisation; licence none." in page
    assert "<details><summary>The whole recipe</summary>" in page
    assert "epochs of fine-tuning" in page or "Fine-tuning did not help" in page
    assert not re.search(r"<figcaption>[^<]*class \d", page)
    for title in ("Escapes against overkill", "Defect probability of the frames", "Calibration", "Each kind of defect"):
        assert title in page


def test_the_trade_off_is_drawn_where_the_curves_are() -> None:
    bad = np.arange(40) % 2 == 1
    scores = np.linspace(0, 1, 40)
    drawn = plots.trade({"useless": (scores, bad)}, {"useless": (1.0, 0.0)})
    assert ">100<" in drawn
    sharp = plots.trade({"good": (bad + scores / 10, bad)}, {"good": (0.0, 0.02)})
    assert ">100<" not in sharp
    assert ">10<" in sharp


def test_evaluate_repeats_the_bundles_own_figures(chain: Chain, capsys, tmp_path: Path) -> None:
    prepared = chain.out / "prepared"
    capsys.readouterr()
    assert main(["evaluate", "--bundle", str(chain.bundle), "--data", str(prepared), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    own = json.loads((chain.out / "metrics.json").read_text())
    for name in ("fp32", "int8"):
        assert found["variants"][name]["test"] == own["variants"][name]["test"]
        assert found["variants"][name]["promised"] == own["variants"][name]["promised"]


def test_evaluate_on_raw_frames_leaves_out_what_taught_the_bundle(chain: Chain, raw: Path, capsys, tmp_path) -> None:
    capsys.readouterr()
    out = tmp_path / "report"
    arguments = ["evaluate", "--bundle", str(chain.bundle), "--data", str(raw), "--out", str(out), "--workers", "1"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    with Archive(chain.bundle) as archive:
        sides = archive.manifest.training.data["recordings"]
    assert f"{len(sides['train']) + len(sides['val'])} recordings that taught or tuned the bundle were left out" in said
    measured = json.loads((out / "evaluation.json").read_text())["variants"]["fp32"]["test"]
    assert {row["recording"] for row in measured["per_recording"]} == set(sides["test"])
    assert "SYNTHETIC" in (out / "evaluation.html").read_text()


def test_export_and_bundle_are_steps_of_their_own(chain: Chain, tmp_path: Path, capsys) -> None:
    out = tmp_path / "again"
    shutil.copytree(chain.out / "run", out / "run")
    shutil.copytree(chain.out / "prepared", out / "prepared")
    assert main(["export", "--out", str(out)]) == 0
    assert sorted(path.name for path in (out / "onnx").iterdir()) == ["fp32.onnx", "int8.onnx"]
    assert main(["bundle", "--out", str(out)]) == 0
    assert (out / "tiny-0.1.0.pipeline").is_file()


def test_the_bundle_is_called_what_one_wants(chain: Chain, tmp_path: Path, capsys) -> None:
    out = tmp_path / "again"
    shutil.copytree(chain.out / "run", out / "run")
    shutil.copytree(chain.out / "prepared", out / "prepared")
    assert main(["bundle", "--out", str(out), "--name", "cell-3", "--version", "2.1.0"]) == 0
    with Archive(out / "cell-3-2.1.0.pipeline") as archive:
        assert (archive.manifest.name, archive.manifest.version) == ("cell-3", "2.1.0")
        assert "cell-3 2.1.0" in archive.read("report/report.html").decode()
    assert not (out / "tiny-0.1.0.pipeline").exists()


def test_a_model_of_no_use_is_called_that_everywhere(chain: Chain, tmp_path: Path, capsys, monkeypatch) -> None:
    out = tmp_path / "again"
    shutil.copytree(chain.out / "run", out / "run")
    shutil.copytree(chain.out / "prepared", out / "prepared")
    monkeypatch.setattr(fitness, "MOST_OVERKILL", 0.0)
    capsys.readouterr()
    assert main(["bundle", "--out", str(out)]) == 0
    assert capsys.readouterr().err.splitlines()[-1].startswith("weldwatch-train: not fit for a station: fp32 rejects")
    with Archive(out / "tiny-0.1.0.pipeline") as archive:
        assert "must not judge real welds; not fit for a station: " in (archive.manifest.notice or "")
        assert b'<p class="loud">Not fit for a station: ' in archive.read("report/report.html")
    prepared = ["--data", str(out / "prepared")]
    assert main(["evaluate", "--bundle", str(out / "tiny-0.1.0.pipeline"), *prepared]) == 0
    assert "not fit for a station: " in capsys.readouterr().err.splitlines()[-1]


def test_a_training_that_is_there_is_not_overwritten(chain: Chain, recipe_file: Path, raw: Path, fails) -> None:
    said = fails("all", "--recipe", recipe_file, "--data", raw, "--out", chain.out)
    assert "--resume goes on" in said


def test_a_resume_with_another_recipe_is_refused(chain: Chain, recipe_file: Path, fails) -> None:
    prepared = chain.out / "prepared"
    said = fails("train", "--recipe", recipe_file, "--data", prepared, "--out", chain.out, "--resume", "--epochs", "9")
    assert "another recipe or other data" in said


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_model(chain: Chain, recipe_file: Path, tmp_path: Path) -> None:
    out, prepared = tmp_path / "killed", chain.out / "prepared"
    command = [sys.executable, "-m", "training.cli", "train", "--recipe", str(recipe_file), "--data", str(prepared)]
    command += ["--out", str(out)]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not (out / "run" / "checkpoint.npz").exists():
        assert running.poll() is None, "it ended before its first checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert not (out / "run" / "model.keras").exists()
    subprocess.run([*command, "--resume"], check=True, capture_output=True)
    undisturbed = json.loads((chain.out / "run" / "training.json").read_text())
    resumed = json.loads((out / "run" / "training.json").read_text())
    assert resumed["best"] == undisturbed["best"]
    for one, other in zip(resumed["history"], undisturbed["history"], strict=True):
        assert one["val_loss"] == pytest.approx(other["val_loss"], abs=0.02)


# Eighths, so that probabilities meet the limits exactly.
EIGHTHS = st.integers(0, 8).map(lambda eighths: eighths / 8)


@given(
    st.lists(EIGHTHS, min_size=1, max_size=20),
    EIGHTHS,
    st.none() | st.tuples(EIGHTHS, EIGHTHS).map(lambda pair: (min(pair), max(pair))),
)
def test_rates_count_what_the_station_would_decide(defects, threshold: float, review) -> None:
    decision = Decision(("no defect", "defect"), (0,), threshold, review)
    passed, looked = evaluate._verdicts(np.array(defects, dtype=np.float64), decision)
    for defect, ok, person in zip(defects, passed, looked, strict=True):
        expected = decide([1 - defect, defect], decision)[1]
        assert expected == ("NotDecidable" if person else "OK" if ok else "NotOK")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--weights", "/nowhere/mobilenet_2_5_128_tf_no_top.h5"], "no such file"),
        (["--weights", "/etc/hostname"], "add --weights-origin TEXT --weights-licence TEXT"),
        (["--weights", "/etc/hostname", *OWN], "not a Keras .h5 file of weights"),
        (["--recipe", "/nowhere/recipe.yaml"], "give a YAML file, or one of: aluminium, demo, steel304"),
    ],
)
def test_what_cannot_work_is_said_before_frames_are_read(change, said, raw, recipe_file, fails, tmp_path) -> None:
    arguments = ["all", "--recipe", recipe_file, "--data", raw, "--out", tmp_path / "out", *change]
    assert said in fails(*arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("weights", "said"), [("/nowhere/a.h5", "no such file"), ("/etc/hostname", "not a Keras")])
def test_folds_look_at_the_weights_before_frames_are_read(weights, said, raw, recipe_file, fails, monkeypatch) -> None:
    monkeypatch.setattr(assess, "prepare_frames", lambda *_a, **_k: pytest.fail("frames are read"))
    arguments = ["evaluate", "--folds", "3", "--recipe", recipe_file, "--data", raw, "--weights", weights]
    assert said in fails(*arguments)


def test_weights_that_do_not_fit_are_one_line(chain: Chain, recipe_file: Path, fails, tmp_path: Path) -> None:
    import keras

    wrong = tmp_path / "mobilenet_5_0_128_tf_no_top.weights.h5"
    other = keras.applications.MobileNet(input_shape=(128, 128, 3), alpha=0.5, include_top=False, weights=None)
    other.save_weights(wrong)
    arguments = ["train", "--recipe", recipe_file, "--data", chain.out / "prepared", "--out", tmp_path / "out", *OWN]
    assert "do not fit mobilenet_v1 alpha 0.25" in fails(*arguments, "--weights", wrong)


def test_a_file_that_is_no_weights_is_one_line(chain: Chain, recipe_file: Path, fails, tmp_path: Path) -> None:
    wrong = tmp_path / "mobilenet_2_5_128_tf_no_top.h5"
    wrong.write_bytes(b"not HDF5")
    arguments = ["train", "--recipe", recipe_file, "--data", chain.out / "prepared", "--out", tmp_path / "out", *OWN]
    assert "not a Keras .h5 file" in fails(*arguments, "--weights", wrong)


def test_weights_out_of_reach_are_one_line(chain: Chain, recipe_file: Path, fails, tmp_path: Path, monkeypatch) -> None:
    from keras.src.utils import file_utils

    def away(*_arguments: object, **_options: object) -> str:
        raise Exception("URL fetch failure on https://somewhere: None -- [Errno -2] Name or service not known")

    monkeypatch.setattr(file_utils, "get_file", away)
    arguments = ["train", "--recipe", recipe_file, "--data", chain.out / "prepared", "--out", tmp_path / "out"]
    said = fails(*arguments, "--weights", "imagenet")
    assert "cannot be reached; give a Keras .h5 file without top with --weights PATH" in said
    assert "--weights random" in said
