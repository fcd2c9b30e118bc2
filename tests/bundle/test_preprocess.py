"""One preprocessing for training, agent and the vendor's scripts: the same numbers, whatever the camera writes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from agent.bundle import scripts
from agent.bundle.archive import Archive
from agent.bundle.preprocess import Preprocessing, to_gray, to_input
from agent.image import Picture, decode
from agent.model.session import OnnxModel
from tests.support.bundles import brightness_bundle, brightness_graph

RNG = np.random.default_rng(5)
GRAY = RNG.integers(0, 256, (97, 143), dtype=np.uint8)
RGB = RNG.integers(0, 256, (90, 70, 3), dtype=np.uint8)


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.fromarray(GRAY), "JPEG", exif=exif)


IMAGES = {
    "gray png": encoded(Image.fromarray(GRAY)),
    "gray jpeg": encoded(Image.fromarray(GRAY), "JPEG"),
    "16-bit png": encoded(Image.fromarray(GRAY.astype(np.uint16) * 251)),
    "16-bit tiff": encoded(Image.fromarray(GRAY.astype(np.uint16) * 251), "TIFF"),
    "rgb png": encoded(Image.fromarray(RGB)),
    "rgba png": encoded(Image.fromarray(np.dstack([RGB, GRAY[:90, :70]]))),
    "gray with alpha": encoded(Image.fromarray(GRAY).convert("LA")),
    "cmyk jpeg": encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG"),
    "palette png": encoded(Image.fromarray(RGB).quantize(16)),
    "black and white": encoded(Image.fromarray(GRAY).convert("1")),
    "gray bmp": encoded(Image.fromarray(GRAY), "BMP"),
    "pgm": encoded(Image.fromarray(GRAY), "PPM"),
    "webp": encoded(Image.fromarray(RGB), "WEBP", lossless=True),
    "already 128": encoded(Image.fromarray(RNG.integers(0, 256, (128, 128), dtype=np.uint8))),
    "as small as can be": encoded(Image.new("L", (16, 16), 77)),
    **{f"exif orientation {number}": turned(number) for number in range(1, 9)},
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    path = tmp_path_factory.mktemp("bundle") / "b.pipeline"
    brightness_bundle(path)
    with Archive(path) as archive:
        yield archive


def process(archive: Archive, name: str) -> Any:
    """A script's ``process``, as the vendor's workbench would call it."""
    space: dict[str, Any] = {}
    exec(compile(archive.read(name), name, "exec"), space)  # noqa: S102  # the workbench runs it; only this test does here
    return space["process"]


@pytest.mark.parametrize("name", IMAGES)
def test_the_two_scripts_around_onnxruntime_give_the_agents_numbers(bundle: Archive, name: str) -> None:
    judged = OnnxModel(bundle).judge(decode(IMAGES[name]))
    session = onnxruntime.InferenceSession(brightness_graph(), providers=["CPUExecutionProvider"])
    outputs = session.run(None, process(bundle, scripts.PREPROCESSING)(IMAGES[name]))
    answer = process(bundle, scripts.POSTPROCESSING)(outputs)
    assert answer["probability"] == pytest.approx(judged.probability, abs=1e-5)
    assert answer["class"] == bundle.manifest.labels[int(np.argmax(judged.probability))]
    assert set(answer) == {"probability", "class"}


@pytest.mark.parametrize("spec", [
    Preprocessing(crop=(0.1, 0.25, 0.9, 1.0)),
    Preprocessing(filter="lanczos", reducing_gap=None),
    Preprocessing(filter="box"),
])  # fmt: skip
def test_the_scripts_follow_the_manifest(tmp_path: Path, spec: Preprocessing) -> None:
    brightness_bundle(tmp_path / "b", preprocessing=spec)
    with Archive(tmp_path / "b") as archive:
        array = process(archive, scripts.PREPROCESSING)(IMAGES["gray png"])["input"]
    assert np.array_equal(array, to_input(to_gray(decode(IMAGES["gray png"]), spec)))


@pytest.mark.parametrize("content", [
    [np.array([[0.25, 0.75]], np.float32), np.zeros((1, 4, 4))],
    {"probability": np.array([[0.25, 0.75]], np.float32)},
    np.array([[0.25, 0.75]], np.float32),
    [0.25, 0.75],
])  # fmt: skip
def test_the_postprocessing_script_takes_outputs_in_any_usual_form(bundle: Archive, content: Any) -> None:
    answer = process(bundle, scripts.POSTPROCESSING)(content)
    assert answer == {"probability": [0.25, 0.75], "class": "defect"}


@settings(max_examples=40)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 400), st.integers(1, 400))))
def test_a_prepared_copy_gives_the_cameras_own_tensor(gray: np.ndarray) -> None:
    spec = Preprocessing()
    prepared = to_gray(Picture.from_array(gray), spec)
    again = to_gray(decode(encoded(Image.fromarray(prepared))), spec)
    assert np.array_equal(prepared, again)
    array = to_input(prepared)
    assert array.shape == (1, 128, 128, 3)
    assert array.dtype == np.float32
    assert 0 <= array.min() <= array.max() <= 1


@settings(max_examples=30)
@given(st.integers(0, 255), st.integers(1, 300), st.integers(1, 300))
def test_a_dark_picture_stays_dark(level: int, width: int, height: int) -> None:
    """No stretching: the level that goes in comes out."""
    gray = np.full((height, width), level, np.uint8)
    assert set(np.unique(to_gray(Picture.from_array(gray), Preprocessing()))) == {level}


def test_sixteen_bits_are_divided_by_257_and_rounded() -> None:
    levels = np.tile(np.array([0, 128, 129, 257, 32_896, 65_535], np.uint16), (16, 3))
    picture = decode(encoded(Image.fromarray(levels)))
    assert np.asarray(picture.image)[:, :6].tolist() == [[0, 0, 1, 1, 128, 255]] * 16
