from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agent.errors import UsageError
from training.cli import COMMANDS, main
from training.recipe import BUILT_IN, digest, load_recipe


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_teaches_without_loading_tensorflow(command: list[str]) -> None:
    code = (
        "import sys\nfrom training.cli import main\ntry:\n    main(sys.argv[1:] + ['--help'])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "assert not {'tensorflow', 'keras', 'onnx', 'sklearn', 'matplotlib'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    assert "usage: weldwatch-train" in done.stdout


def test_synthesize_and_prepare_run_without_tensorflow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = tmp_path / "frames"
    assert main(["synthesize", "--out", str(frames), "--recordings", "9", "--frames", "10", "--size", "80x98",
                 "--workers", "1", "--seed", "4"]) == 0  # fmt: skip
    assert main(["prepare", "--data", str(frames), "--out", str(tmp_path / "set"), "--train", "all", "--val", "all",
                 "--test", "all", "--workers", "1", "--recipe", "demo"]) == 0  # fmt: skip
    assert "contact-sheet.png" in capsys.readouterr().out
    assert "tensorflow" not in sys.modules or "training.fit" in sys.modules


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        (["train", "--data", "{raw}", "--out", "{out}"], "tensorflow"),
        (["all", "--data", "{raw}", "--out", "{out}"], "tf2onnx"),
        (["export", "--out", "{out}"], "keras"),
        (["bundle", "--out", "{out}"], "matplotlib"),
        (["evaluate", "--data", "{raw}", "--folds", "3"], "sklearn"),
        (["evaluate", "--data", "{raw}", "--bundle", "b.pipeline", "--out", "{out}"], "matplotlib"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value,
)
def test_a_missing_library_is_said_before_any_work(command, missing: str, raw: Path, tmp_path: Path) -> None:
    code = "import sys\nsys.modules[sys.argv[1]] = None\nfrom training.cli import main\nsys.exit(main(sys.argv[2:]))"
    out = tmp_path / "out"
    arguments = [part.format(raw=raw, out=out) for part in command]
    done = subprocess.run([sys.executable, "-c", code, missing, *arguments], capture_output=True, text=True)
    said = done.stderr.splitlines()
    assert (done.returncode, len(said), done.stdout) == (2, 1, "")
    assert said[0].startswith(f"weldwatch-train: {command[0]} needs ")
    assert missing in said[0]
    assert said[0].endswith("make training, or pip install 'weldwatch[training]'")
    assert not out.exists()


def test_wrong_usage_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--data", "x"]) == 2
    assert "either --bundle FILE" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["synthesize", "--out", "x", "--size", "big"])


def test_a_folder_that_cannot_be_made_is_one_line(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    assert main(["prepare", "--recipe", "demo", "--data", str(raw), "--out", str(tmp_path / "file" / "set")]) == 1
    assert capsys.readouterr().err == f"weldwatch-train: {tmp_path}/file/set/.frames: Not a directory\n"


@pytest.mark.parametrize("path", sorted(BUILT_IN.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_that_comes_along_is_whole(path: Path) -> None:
    recipe = load_recipe(path.stem)
    assert recipe == load_recipe(path)
    head = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert any("weldwatch-train" in line or "make " in line for line in head)
    assert any("Expected" in line for line in head)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("classes: [a, b]", "name: missing"),
        ("name: x\nclasses: [a, b]\nepochs: 3", "epochs: unknown key"),
        ("name: x\nclasses: [a, b]\ntrain: {batch: 1}", "train.batch"),
        ("name: x\nclasses: [a, b]\ngood: [5]", "does not fit 2 classes"),
        ("name: x\nname: y\nclasses: [a, b]", "second time"),
        ("name: x\nclasses: [a, b]\nmodel: {backbone: resnet}", "allowed: mobilenet_v1"),
    ],
)
def test_a_wrong_recipe_is_one_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_recipe(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_digest_holds_what_decides_the_weights_and_nothing_else(tmp_path: Path) -> None:
    base = "name: x\nclasses: [a, b]\n"

    def of(text: str) -> str:
        (tmp_path / "r.yaml").write_text(base + text)
        return digest(load_recipe(tmp_path / "r.yaml"))

    assert of("") == of("decision: {escape_rate: 0.1}")
    assert of("") == of("model: {weights_origin: elsewhere}")
    assert len({of(""), of("seed: 1"), of("train: {epochs: 3}"), of("model: {alpha: 1.0}")}) == 4


def test_an_example_that_resumes_says_all_that_the_first_one_said(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("train", "all"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        shown = [line.strip() for line in capsys.readouterr().out.splitlines()]
        (resumed,) = [line for line in shown if line.startswith("weldwatch-train") and line.endswith("--resume")]
        assert resumed.removesuffix(" --resume") in shown
