from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agent.demo import scene
from agent.errors import UsageError
from training import baseline, synthetic

TINY = (64, 78)


def digest(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_layout_of_the_public_set_is_written(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    summary = synthetic.synthesize(
        tmp_path / "set",
        recordings=5,
        frames=12,
        size=TINY,
        workers=1,
        test_recordings=1,
        progress=lambda done, total: told.append((done, total)),
    )
    labels = json.loads((tmp_path / "set/train/train.json").read_text())
    assert len(labels) == 60
    assert set(labels.values()) <= set(range(len(scene.KINDS)))
    on_disk = {str(path.relative_to(tmp_path / "set/train")) for path in (tmp_path / "set/train").rglob("*.png")}
    assert on_disk == set(labels)
    assert len({name[:13] for name in labels}) == 5
    with Image.open(tmp_path / "set/train" / next(iter(labels))) as picture:
        assert (picture.mode, picture.size) == ("L", TINY)
    test_labels = json.loads((tmp_path / "set/test/test.json").read_text())
    assert not {name[:13] for name in test_labels} & {name[:13] for name in labels}
    assert told[-1] == (72, 72)
    assert summary.frames == 72
    assert sum(summary.kinds.values()) == 72
    assert (tmp_path / "set" / synthetic.NOTE).read_text().startswith("SYNTHETIC")


def test_the_frames_are_those_of_the_scene(tmp_path: Path) -> None:
    synthetic.synthesize(tmp_path, recordings=1, frames=4, size=TINY, workers=1, seed=9)
    part = synthetic.plan(1, 4, seed=9)[0]
    with Image.open(tmp_path / "train" / part.names()[0]) as picture:
        expected = scene.render(scene.recording(part.seed), part.kind, part.first, TINY)
        assert np.array_equal(np.asarray(picture), expected)


def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    for workers in (1, 2):
        synthetic.synthesize(tmp_path / str(workers), recordings=2, frames=6, size=TINY, workers=workers, seed=4)
    assert digest(tmp_path / "1") == digest(tmp_path / "2")


def test_each_recording_has_good_frames_and_each_defect_many_recordings() -> None:
    parts = synthetic.plan(60, 40, seed=3)
    frames = Counter[int]()
    recordings: dict[int, set[str]] = {kind: set() for kind in range(len(scene.KINDS))}
    for part in parts:
        frames[part.kind] += part.frames
        recordings[part.kind].add(part.folder[:13])
    assert len(recordings[0]) == 60
    assert min(len(names) for names in recordings.values()) >= 15
    assert sum(frames.values()) == 2400
    assert frames[0] == 1200
    assert all(140 <= frames[kind] <= 340 for kind in range(1, 6))


def test_parts_of_a_recording_share_no_frame() -> None:
    parts = synthetic.plan(8, 30, seed=1)
    numbers = Counter((part.folder[:13], name.rsplit("_", 1)[1]) for part in parts for name in part.names())
    assert max(numbers.values()) == 1
    assert len({part.folder for part in parts}) == len(parts)


def test_seeds_and_splits_give_other_recordings() -> None:
    first, second = synthetic.plan(10, 8, seed=0), synthetic.plan(10, 8, seed=1)
    held_out = synthetic.plan(5, 8, seed=0, split="test", offset=10)
    assert not {part.seed for part in first} & {part.seed for part in second}
    assert not {part.seed for part in first} & {part.seed for part in held_out}


@pytest.mark.parametrize("wrong", [{"recordings": 0, "frames": 4}, {"recordings": 1, "frames": 1}])
def test_impossible_numbers_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        synthetic.synthesize(tmp_path / "set", **wrong)
    assert not (tmp_path / "set").exists()


def test_two_sets_never_mix(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(UsageError, match="not empty"):
        synthetic.synthesize(tmp_path, recordings=1, frames=4)


def test_the_baseline_sees_brightness_and_knows_a_leaky_split() -> None:
    rng = np.random.default_rng(0)
    names = [f"r{n // 4}" for n in range(160)]
    own = np.repeat(rng.integers(0, 200, (40, 32, 32)), 4, axis=0)
    labels = np.repeat(rng.permutation(np.arange(40) % 2), 4)
    noise = rng.integers(0, 20, (160, 32, 32))
    by_light = np.clip(noise + 60 + 60 * labels[:, None, None], 0, 255).astype(np.uint8)
    assert baseline.check(by_light, labels, names, folds=3).by_recording > 0.99
    by_recording = np.clip(noise + own, 0, 255).astype(np.uint8)
    result = baseline.check(by_recording, labels, names, folds=3)
    assert result.by_frame > 0.99
    assert result.by_recording < result.by_frame - 0.15


def test_the_baseline_needs_both_classes() -> None:
    frames = np.zeros((10, 32, 32), np.uint8)
    with pytest.raises(ValueError, match="both classes"):
        baseline.check(frames, np.zeros(10, np.int64), [str(n) for n in range(10)])
