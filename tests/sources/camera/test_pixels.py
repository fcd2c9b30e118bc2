"""Pixels of industrial cameras to 8 bits."""

from __future__ import annotations

import numpy as np
import pytest

from agent.sources.camera.pixels import to_8_bit
from agent.sources.camera.wire import DriverError


def raw(values: list[int], dtype: str = "u1") -> np.ndarray:
    return np.array(values, dtype).view(np.uint8)


@pytest.mark.parametrize(("bits", "high"), [(10, 1023), (12, 4095), (14, 16383), (16, 65535)])
def test_deep_gray_is_cut_to_its_highest_bits_whatever_the_picture_shows(bits: int, high: int) -> None:
    levels = [0, high // 2 + 1, high, 1 << (bits - 8)]
    got = to_8_bit(f"Mono{bits}", raw(levels, "<u2"), 2, 2)
    assert got.tolist() == [[0, 128], [255, 1]]
    assert got.dtype == np.uint8


@pytest.mark.parametrize(
    ("form", "values"),
    [("RGB8", [1, 2, 3]), ("BGR8", [3, 2, 1]), ("RGBa8", [1, 2, 3, 255]), ("BGRa8", [3, 2, 1, 0])],
)
def test_colours_come_out_red_first(form: str, values: list[int]) -> None:
    assert to_8_bit(form, raw(values * 2), 1, 2).tolist() == [[[1, 2, 3], [1, 2, 3]]]


def test_a_copy_is_made_and_what_follows_the_picture_is_let_be() -> None:
    data = raw([1, 2, 3, 4, 9, 9])
    got = to_8_bit("Mono8", data, 2, 2)
    data[:] = 0
    assert got.tolist() == [[1, 2], [3, 4]]


def test_short_buffers_and_unknown_formats_are_errors() -> None:
    with pytest.raises(DriverError, match="incomplete frame: 3 bytes instead of 4"):
        to_8_bit("Mono8", raw([1, 2, 3]), 2, 2)
    with pytest.raises(DriverError, match="sends BayerRG8; set its PixelFormat"):
        to_8_bit("BayerRG8", raw([1, 2, 3, 4]), 2, 2)
