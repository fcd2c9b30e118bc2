from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agent.bundle.preprocess import Preprocessing, to_gray, to_input
from agent.errors import UsageError
from agent.image import decode
from tests.training.conftest import with_data
from training import dataset, frames
from training.dataset import short_table
from training.listing import read_listing, recording_of
from training.prepare import prepare
from training.recipe import Recipe

CLASSES = ["good weld", "burn through", "contamination", "lack of fusion", "misalignment", "lack of penetration"]


@pytest.fixture
def copy(raw: Path, tmp_path: Path) -> Path:
    """The raw set, to be damaged."""
    return Path(shutil.copytree(raw, tmp_path / "raw"))


def _labels(data: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads((data / "train" / "train.json").read_text())
    return found


def _relabel(data: Path, labels: dict[str, int]) -> None:
    (data / "train" / "train.json").write_text(json.dumps(labels))


def test_a_prepared_set_keeps_recordings_on_one_side(raw: Path, recipe: Recipe, tmp_path: Path) -> None:
    index = prepare(raw, tmp_path / "set", recipe, workers=1)
    sides: dict[str, set[str]] = {}
    for frame in index.frames:
        sides.setdefault(frame.recording, set()).add(frame.split)
        assert len(frame.recording) == 13
        assert frame.label == (frame.kind != 0)
    assert all(len(one) == 1 for one in sides.values())
    assert index.synthetic
    data = dataset.load(tmp_path / "set")
    assert data.split("train").gray.shape[1:] == (128, 128)
    for side in ("train", "val", "test"):
        found = data.split(side)
        assert (found.label == 0).any()
        assert (found.label == 1).any()
    assert (tmp_path / "set" / "contact-sheet.png").is_file()
    assert not (tmp_path / "set" / ".frames").exists()


def test_prepared_frames_give_the_tensor_of_the_camera_frame(raw: Path, recipe: Recipe, tmp_path: Path) -> None:
    index = prepare(raw, tmp_path / "set", recipe, workers=1)
    for frame in index.frames[::9]:
        camera = decode((raw / frame.source).read_bytes())
        prepared = decode((tmp_path / "set" / frame.file).read_bytes())
        spec = Preprocessing()
        np.testing.assert_array_equal(to_input(to_gray(camera, spec)), to_input(to_gray(prepared, spec)))


def test_the_same_request_is_done_once_and_another_is_refused(raw: Path, recipe: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "set"
    first = prepare(raw, out, recipe, workers=1)
    assert prepare(raw, out, recipe, workers=1) == first
    with pytest.raises(UsageError, match="prepared from something else"):
        prepare(raw, out, with_data(recipe, train=10), workers=1)


def test_an_interrupted_preparation_goes_on(raw: Path, recipe: Recipe, tmp_path: Path, monkeypatch) -> None:
    out, read = tmp_path / "set", []
    monkeypatch.setattr(frames, "CHUNK", 32)
    original = frames._prepare

    def stops(*arguments):
        if len(read) == 3:
            raise KeyboardInterrupt
        read.append(arguments[1])
        return original(*arguments)

    monkeypatch.setattr(frames, "_prepare", stops)
    with pytest.raises(KeyboardInterrupt):
        prepare(raw, out, recipe, workers=1)
    monkeypatch.setattr(frames, "_prepare", lambda *a: read.append(a[1]) or original(*a))
    interrupted = prepare(raw, out, recipe, workers=1)
    assert len(read) == len({name for piece in read for name in piece}) // 32 + 1
    monkeypatch.setattr(frames, "_prepare", original)
    assert interrupted.digest == prepare(raw, tmp_path / "other", recipe, workers=1).digest


def test_workers_make_the_same_set(raw: Path, recipe: Recipe, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(frames, "CHUNK", 64)
    alone = prepare(raw, tmp_path / "one", recipe, workers=1)
    assert prepare(raw, tmp_path / "two", recipe, workers=2).digest == alone.digest


def test_a_frame_that_was_changed_is_refused_by_name(raw: Path, recipe: Recipe, tmp_path: Path) -> None:
    index = prepare(raw, tmp_path / "set", recipe, workers=1)
    victim = tmp_path / "set" / index.frames[0].file
    Image.fromarray(np.zeros((128, 128), np.uint8)).save(victim)
    with pytest.raises(UsageError, match=str(victim.name)[:20]):
        dataset.load(tmp_path / "set")


def test_a_corrupt_frame_is_listed_and_left_out(copy: Path, recipe: Recipe, tmp_path: Path) -> None:
    name = sorted(_labels(copy))[0]
    victim = copy / "train" / name
    victim.write_bytes(victim.read_bytes()[:500])
    index = prepare(copy, tmp_path / "set", recipe, workers=1)
    assert [one["source"] for one in index.unreadable] == [f"train/{name}"]
    assert any("cannot be read" in one and name in one for one in index.warnings)
    assert all(frame.source != f"train/{name}" for frame in index.frames)


def test_labels_without_file_and_files_without_label_are_said(copy: Path, recipe: Recipe, tmp_path: Path) -> None:
    labels = _labels(copy)
    gone, unlabelled = sorted(labels)[0], sorted(labels)[1]
    (copy / "train" / gone).unlink()
    del labels[unlabelled]
    _relabel(copy, labels)
    index = prepare(copy, tmp_path / "set", recipe, workers=1)
    assert index.missing == [f"train/{gone}"]
    assert any("1 labelled frames do not exist" in one and gone in one for one in index.warnings)
    assert any("1 image files have no label" in one for one in index.warnings)


def test_a_repeat_on_the_other_side_is_removed(copy: Path, recipe: Recipe, tmp_path: Path) -> None:
    labels = _labels(copy)
    index = prepare(copy, tmp_path / "before", recipe, workers=1)
    original = next(f for f in index.frames if f.split == "test" and f.label == 1)
    other = next(f for f in index.frames if f.split == "train" and f.kind == original.kind)
    # The very picture, a little brighter, in a recording of the other side.
    target = Path(other.source).with_name("frame_99999.png")
    brighter = np.asarray(Image.open(copy / original.source)).astype(int) + 2
    Image.fromarray(brighter.clip(0, 255).astype(np.uint8)).save(copy / target)
    labels[str(target.relative_to("train"))] = original.kind
    _relabel(copy, labels)
    fixed = prepare(copy, tmp_path / "after", with_data(recipe, split="recording"), workers=1)
    pair = {str(target), original.source}
    on = {frame.source: frame.split for frame in fixed.frames if frame.source in pair}
    assert len(set(on.values())) < 2 or not on
    dropped = [one for one in fixed.duplicates if one["name"] in pair]
    assert dropped or len({f.recording for f in fixed.frames if f.source in pair}) < 2


def test_a_shortfall_is_said_not_filled(raw: Path, recipe: Recipe, tmp_path: Path) -> None:
    index = prepare(raw, tmp_path / "set", with_data(recipe, train=5000), workers=1)
    (said,) = [one for one in index.warnings if "fewer frames than the recipe wants" in one]
    assert "split about 60/20/20" in said
    assert set(index.shortfalls) == set(index.classes)
    taken, wanted = index.shortfalls["burn through"]["train"]
    counts = Counter((f.split, f.kind) for f in index.frames)
    assert (taken, wanted) == (counts["train", 1], 1000)
    table = short_table(index)
    assert len(table) == 1 + len(index.shortfalls)
    assert f"{taken} of 1000" in next(line for line in table if line.startswith("burn through"))


def test_too_few_recordings_do_not_starve_training(raw: Path, recipe: Recipe, tmp_path: Path) -> None:
    index = prepare(raw, tmp_path / "set", with_data(recipe, train=1000, val=300, test=300), workers=1)
    recordings = Counter(split for _, split in {(f.recording, f.split) for f in index.frames})
    frames = Counter(f.split for f in index.frames)
    assert 8 <= recordings["train"] <= 10
    assert 0.5 <= frames["train"] / frames.total() <= 0.7
    for side in ("train", "val", "test"):
        assert {f.label for f in index.frames if f.split == side} == {0, 1}


def test_the_leaky_split_is_possible_and_loud(raw: Path, recipe: Recipe, tmp_path: Path) -> None:
    index = prepare(raw, tmp_path / "set", with_data(recipe, split="frame"), workers=1)
    assert "comparison only" in index.warnings[0]
    sides = {side: {f.recording for f in index.frames if f.split == side} for side in ("train", "test")}
    assert sides["train"] & sides["test"]


def test_the_sets_own_test_stays_test(copy: Path, recipe: Recipe, tmp_path: Path) -> None:
    labels = _labels(copy)
    recordings = sorted({recording_of(name.partition("/")[0]) for name in labels})
    own = {name: kind for name, kind in labels.items() if name[:13] in recordings[:3]}
    for name in own:
        (copy / "test" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(copy / "train" / name, copy / "test" / name)
    (copy / "test" / "test.json").write_text(json.dumps(own))
    _relabel(copy, {name: kind for name, kind in labels.items() if name not in own})
    index = prepare(copy, tmp_path / "set", with_data(recipe, split="given"), workers=1)
    assert {f.recording for f in index.frames if f.split == "test"} == set(recordings[:3])


def test_one_recording_only_is_refused(copy: Path, recipe: Recipe, fails: Callable[..., str], recipe_file) -> None:
    labels = _labels(copy)
    one = sorted(labels)[0][:13]
    _relabel(copy, {name: kind for name, kind in labels.items() if name.startswith(one)})
    said = fails("prepare", "--recipe", recipe_file, "--data", copy, "--out", copy / "set")
    assert "1 recording(s)" in said
    assert one in said


def test_a_class_without_frames_is_named(copy: Path, recipe: Recipe, fails, recipe_file, tmp_path: Path) -> None:
    labels = _labels(copy)
    _relabel(copy, {name: kind for name, kind in labels.items() if kind != 3})
    index = prepare(copy, tmp_path / "set", recipe, workers=1)
    assert "class 3 lack of fusion: no frame; the model will not have seen one" in index.warnings
    _relabel(copy, {name: kind for name, kind in labels.items() if kind != 0})
    said = fails("prepare", "--recipe", recipe_file, "--data", copy, "--out", tmp_path / "none")
    assert "class 0 good weld: no frame" in said


@pytest.fixture
def nine(copy: Path) -> Path:
    """Nine recordings, of which one alone has contamination."""
    labels = _labels(copy)
    few = sorted({name[:13] for name in labels})[:9]
    holder = min(name[:13] for name, kind in labels.items() if kind == 2)
    _relabel(copy, {n: kind for n, kind in labels.items() if n[:13] in few and (kind != 2 or n[:13] == holder)})
    return copy


def test_what_few_recordings_cannot_prove_is_said(nine: Path, recipe: Recipe, tmp_path: Path) -> None:
    warnings = prepare(nine, tmp_path / "set", recipe, workers=1).warnings
    (one,) = {name[:13] for name, kind in _labels(nine).items() if kind == 2}
    assert f"class 2 contamination: only in recording {one}; it can be taught or measured, not both" in warnings
    assert "9 recordings in all; with fewer than 10 the intervals say next to nothing" in warnings


@pytest.mark.parametrize("command", ["prepare", "train", "all"])
def test_strict_takes_no_data_that_is_odd(command: str, nine: Path, recipe_file: Path, fails, tmp_path: Path) -> None:
    arguments = [command, "--recipe", recipe_file, "--data", nine, "--out", tmp_path / "out", "--workers", "1"]
    said = fails(*arguments, "--strict")
    assert said.startswith("weldwatch-train: --strict: ")
    for odd in ("class 2 contamination: only in recording", "9 recordings in all", "fewer frames than the recipe"):
        assert odd in said
    assert not (tmp_path / "out" / "run").exists()
    assert not list((tmp_path / "out").glob("*.pipeline"))


def test_strict_lets_sound_data_pass(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from training.cli import main

    few = ["--train", "15", "--val", "5", "--test", "5"]
    out = ["--out", str(tmp_path / "set"), "--workers", "1", "--strict"]
    assert main(["prepare", "--recipe", "demo", "--data", str(raw), *few, *out]) == 0
    assert capsys.readouterr().err == ""


def test_a_folder_per_class_is_read(raw: Path, tmp_path: Path) -> None:
    for name, kind in list(_labels(raw).items())[::5]:
        target = tmp_path / CLASSES[kind].replace(" ", "_") / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(raw / "train" / name, target)
    listing = read_listing(tmp_path, CLASSES)
    kaggle = read_listing(raw, CLASSES)
    assert listing.layout == "folder per class"
    assert {i.recording for i in listing.items} <= {i.recording for i in kaggle.items}
    assert {i.kind for i in listing.items} == set(range(6))


def test_a_csv_is_read(raw: Path, tmp_path: Path) -> None:
    rows = [f"{raw / 'train' / name},{CLASSES[kind]},line 3" for name, kind in list(_labels(raw).items())[:4]]
    table = tmp_path / "frames.csv"
    table.write_text("path,label,recording\n" + "\n".join(rows) + "\ngone.png,0,line 4\n", encoding="utf-8-sig")
    listing = read_listing(table, CLASSES)
    assert [item.recording for item in listing.items] == ["line 3"] * 4
    assert listing.missing == ["gone.png"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("path,label\na.png,0\n", "needed: path,label,recording"),
        ("path,label,recording\na.png,9,r\n", "line 2: class '9' is none of the recipe's"),
        ("path,label,recording\na.png,0,\n", "line 2: path and recording must not be empty"),
        ("path,label,recording\na.png,0,r\na.png,1,r\n", "line 3: a.png is listed twice"),
        ("path,label,recording\na.png,0,r\n", "1 frames are listed and none of them exists"),
    ],
)
def test_a_broken_csv_is_explained(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "frames.csv").write_text(content)
    with pytest.raises(UsageError, match=said):
        read_listing(tmp_path, CLASSES)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not JSON"),
        ("[1]", "it is a mapping"),
        ('{"a/b.png": 7}', "class 7 is none of the recipe's: 0 good weld, 1 burn through"),
        ('{"a/b.png": true}', "class True is none"),
        ('{"a/b.png": 1, "a/b.png": 2}', "listed twice"),
    ],
)
def test_a_broken_train_json_is_explained(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(content)
    with pytest.raises(UsageError, match=said):
        read_listing(tmp_path, CLASSES)


def test_what_is_no_data_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder or CSV file"):
        read_listing(tmp_path / "none", CLASSES)
    with pytest.raises(UsageError, match=r"no train/train\.json, no CSV"):
        read_listing(tmp_path, CLASSES)
    (tmp_path / "good weld").mkdir()
    (tmp_path / "good weld" / "a.png").write_bytes(b"")
    with pytest.raises(UsageError, match="which recording is it of"):
        read_listing(tmp_path, CLASSES)
