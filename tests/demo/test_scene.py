from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from agent.demo import scene

SMALL = (200, 244)


def small(seed: int, kind: int = 0, index: int = 0, size: tuple[int, int] = SMALL) -> np.ndarray:
    return scene.render(scene.recording(seed), kind, index, size)


def difference(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first.astype(float) - second).mean())


def test_a_frame_is_gray_bytes_of_the_cameras_size() -> None:
    frame = scene.render(scene.recording(1), 0, 0)
    assert frame.dtype == np.uint8
    assert frame.shape == (scene.SIZE[1], scene.SIZE[0])
    assert frame.flags.c_contiguous


def test_the_same_arguments_give_the_same_bytes_in_another_process() -> None:
    code = (
        "import hashlib; from agent.demo import scene; "
        "print(hashlib.sha256(scene.render(scene.recording(7), 2, 31, (200, 244)).tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    for noise in (3, 4, 5):
        small(noise)  # whatever was drawn before must not matter
    assert hashlib.sha256(small(7, 2, 31).tobytes()).hexdigest() == other


def test_frames_of_a_recording_drift_and_recordings_differ() -> None:
    within = [difference(small(seed, 0, 40), small(seed, 0, 41)) for seed in range(4)]
    later = [difference(small(seed, 0, 40), small(seed, 0, 140)) for seed in range(4)]
    between = [difference(small(seed, 0, 40), small(seed + 1, 0, 40)) for seed in range(4)]
    assert np.mean(within) < np.mean(later) < np.mean(between)
    assert max(within) < min(between)
    assert min(within) > 0


def test_the_plate_slides_down_by_the_travelling_speed() -> None:
    for seed in (1, 4, 9):
        plain = scene.recording(seed)
        camera = replace(plain.camera, noise=0.0, scale=1.0)
        drawn = replace(plain, speed=4.0, camera=camera, plate=replace(plain.plate, contrast=0.2, strokes=2500))
        first, second = (scene.render(drawn, 0, index, (400, 487)).astype(float) for index in (30, 45))
        moved = 30  # 15 frames of 4 units, at half size
        edges = np.r_[0:50, 350:400]
        grain = np.diff(first[300:400, edges], axis=0).ravel()
        there = np.corrcoef(grain, np.diff(second[300 + moved : 400 + moved, edges], axis=0).ravel())[0, 1]
        here = np.corrcoef(grain, np.diff(second[300:400, edges], axis=0).ravel())[0, 1]
        assert there > here + 0.3


def test_a_smaller_size_shows_the_same_scene() -> None:
    for seed, kind in ((2, 0), (3, 1), (5, 4)):
        full = Image.fromarray(small(seed, kind, 60, (400, 488))).resize(SMALL, Image.Resampling.BOX)
        likeness = np.corrcoef(np.asarray(full).ravel(), small(seed, kind, 60).ravel())[0, 1]
        assert likeness > 0.985
        other = np.corrcoef(np.asarray(full).ravel(), small(seed + 20, kind, 60).ravel())[0, 1]
        assert other < likeness - 0.05


@pytest.mark.parametrize("kind", range(1, len(scene.KINDS)))
def test_each_kind_of_defect_departs_from_the_good_weld_where_the_weld_is(kind: int) -> None:
    for seed in range(3):
        good, bad = small(seed, 0, 25), small(seed, kind, 25)
        noise = scene.recording(seed).camera.noise
        assert difference(good, bad) > 0.5 + noise * 1.2
        rows = good.shape[0] // 10
        assert difference(good[:rows], bad[:rows]) < 0.5 + noise * 1.5  # the torch is the same


def test_brightness_does_not_give_the_kind_away() -> None:
    means = np.array([[small(seed, kind, 30, (100, 122)).mean() for kind in range(6)] for seed in range(8)])
    spread = means[:, 0].std()
    assert np.all(np.abs(means.mean(0) - means[:, 0].mean()) < 0.6 * spread)


def test_a_weld_of_any_length_is_drawn() -> None:
    assert small(3, 0, 100_000).std() > 5


@pytest.mark.parametrize(("kind", "size"), [(6, SMALL), (-1, SMALL), (0, (8, 8))])
def test_wrong_arguments_are_refused(kind: int, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"kind|size"):
        small(0, kind, 0, size)


def test_the_torch_is_dark_above_and_the_electrode_is_bright() -> None:
    for seed in range(5):
        camera = scene.recording(seed).camera
        frame = small(seed)
        x = camera.tip_x / scene.SIZE[0] * SMALL[0]
        column = int(SMALL[0] - x if camera.mirrored else x)
        row = int(camera.tip_y / scene.SIZE[1] * SMALL[1])
        assert frame[:6, max(0, column - 20) : column + 20].mean() < 45
        assert frame[row - 8 : row - 3, column - 4 : column + 4].mean() > 120
