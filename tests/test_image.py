"""The one decoder: every mode a camera writes, upright, 8 bits; hostile and half bytes never become a picture."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from agent import image as module
from agent.errors import ImageError, TruncatedImageError
from agent.image import FORMATS, Picture, decode

RAMP = np.linspace(0, 255, 40 * 30).astype(np.uint8).reshape(30, 40)
COLOURS = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], axis=2)
SIXTEEN = np.linspace(0, 65535, 40 * 30).astype(np.uint16).reshape(30, 40)


def encode(picture: Image.Image | np.ndarray, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(stream, form, **options)
    return stream.getvalue()


def code_of(data: bytes) -> str | None:
    """The code of the error that these bytes raise; None for a picture."""
    try:
        decode(data)
    except ImageError as error:
        return error.code
    return None


def pixels(data: bytes) -> np.ndarray:
    picture = decode(data)
    array = np.asarray(picture.image)
    assert array.shape[:2] == (picture.height, picture.width)
    assert array.dtype == np.uint8
    return array


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_gray_levels(form):
    assert np.abs(pixels(encode(RAMP, form)).reshape(30, 40, -1)[:, :, 0].astype(int) - RAMP).max() <= 40


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_give_them_exactly(form):
    assert np.array_equal(pixels(encode(RAMP, form)).reshape(30, 40, -1)[:, :, 0], RAMP)
    assert np.array_equal(pixels(encode(COLOURS, form)), COLOURS)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_gray_is_scaled_by_what_the_bits_mean_and_not_by_the_picture(form):
    expected = np.rint(SIXTEEN / 257).astype(np.uint8)
    assert np.array_equal(pixels(encode(SIXTEEN, form)), expected)
    dark = encode((SIXTEEN // 100).astype(np.uint16), form)
    assert pixels(dark).max() == 3  # 655 / 257, rounded: a dark picture stays dark


def test_sixteen_bit_gray_of_a_big_endian_camera():
    big = Image.frombytes("I;16B", (40, 30), SIXTEEN.astype(">u2").tobytes())
    assert np.array_equal(pixels(encode(big, "TIFF")), np.rint(SIXTEEN / 257).astype(np.uint8))


@given(st.integers(0, 65535))
def test_sixteen_bits_are_rounded(level):
    array = np.full((16, 16), level, np.uint16)
    assert int(pixels(encode(array, "PNG"))[0, 0]) == round(level / 257)


def test_more_than_sixteen_bits_are_refused():
    for picture in (
        Image.fromarray(np.full((16, 16), 70_000, np.int32)),
        Image.fromarray(np.full((16, 16), 0.5, np.float32)),
    ):
        with pytest.raises(ImageError) as caught:
            decode(encode(picture, "TIFF"))
        assert caught.value.code == "unsupported_format"
        assert not isinstance(caught.value, TruncatedImageError)


@pytest.mark.parametrize(
    ("mode", "form", "expected"),
    [("1", "PNG", "L"), ("L", "PNG", "L"), ("LA", "PNG", "L"), ("P", "PNG", "RGB"), ("RGB", "PNG", "RGB"),
     ("RGBA", "PNG", "RGB"),
     ("CMYK", "JPEG", "RGB"), ("CMYK", "TIFF", "RGB"), ("LAB", "TIFF", "RGB"), ("YCbCr", "JPEG", "RGB"), ("1",
     "TIFF", "L"),
     ("RGBA", "WEBP", "RGB"), ("RGBA", "TIFF", "RGB"), ("P", "BMP", "RGB"), ("1", "BMP", "L"), ("1", "PPM", "L")],
)  # fmt: skip
def test_every_mode_becomes_gray_or_rgb(mode, form, expected):
    white = (
        Image.new("RGB", (19, 17), "white").convert(mode)
        if mode != "LAB"
        else Image.new("LAB", (19, 17), (255, 128, 128))
    )
    picture = decode(encode(white, form))
    assert picture.image.mode == expected
    assert np.asarray(picture.image).min() >= 250


def test_alpha_is_dropped_and_not_blended():
    """What the camera saw lies in the colours; a transparent pixel is no black one."""
    clear = Image.new("RGBA", (16, 16), (200, 100, 50, 0))
    assert decode(encode(clear, "PNG")).image.getpixel((0, 0)) == (200, 100, 50)
    gray = Image.new("LA", (16, 16), (200, 0))
    assert decode(encode(gray, "PNG")).image.getpixel((0, 0)) == 200


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_the_picture_is_upright(form, turn):
    """The EXIF orientations 1 to 8: however the camera hung, the bright corner is top left, the dark one top right."""
    upright = np.full((16, 32), 120, np.uint8)
    upright[:8, :8], upright[:8, 24:] = 255, 0
    undo = {1: [], 2: ["lr"], 3: ["180"], 4: ["ud"], 5: ["t"], 6: ["90"], 7: ["t", "180"], 8: ["270"]}[turn]
    how: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "lr": np.fliplr, "ud": np.flipud, "180": lambda a: np.rot90(a, 2), "t": np.transpose,
        "90": np.rot90, "270": lambda a: np.rot90(a, 3),
    }  # fmt: skip
    stored = upright
    for step in undo:
        stored = how[step](stored)
    exif = Image.Exif()
    exif[0x0112] = turn
    picture = decode(encode(np.ascontiguousarray(stored), form, exif=exif))
    assert (picture.width, picture.height) == (32, 16)
    levels = np.asarray(picture.image.convert("L")).astype(int)
    assert levels[2, 2] > 230
    assert levels[2, 29] < 25


@pytest.mark.parametrize(
    ("stamp", "fraction", "zone", "expected"),
    [
        ("2026:11:22 10:22:05", None, None, datetime(2026, 11, 22, 10, 22, 5)),
        ("2026:11:22 10:22:05", "123", None, datetime(2026, 11, 22, 10, 22, 5, 123000)),
        ("2026:11:22 10:22:05", "5", "+01:00", datetime(2026, 11, 22, 10, 22, 5, 500000, timezone(timedelta(hours=1)))),
        ("2026:11:22 10:22:05", None, "nonsense", datetime(2026, 11, 22, 10, 22, 5)),
        ("0000:00:00 00:00:00", None, None, None),
        ("yesterday", None, None, None),
    ],
)
def test_the_time_of_capture_from_exif(stamp, fraction, zone, expected):
    exif = Image.Exif()
    fields = exif.get_ifd(0x8769)
    fields[0x9003] = stamp
    if fraction:
        fields[0x9291] = fraction
    if zone:
        fields[0x9011] = zone
    taken = decode(encode(RAMP, "JPEG", exif=exif)).taken_at
    assert taken == expected
    assert taken is None or taken.tzinfo == (expected.tzinfo if expected else None)


WHOLE = {
    "png": encode(RAMP, "PNG"), "interlaced colours": encode(COLOURS, "PNG", compress_level=9),
    "16-bit png": encode(SIXTEEN, "PNG"),
    "jpeg": encode(RAMP, "JPEG"), "progressive": encode(COLOURS, "JPEG", progressive=True),
    "restart": encode(COLOURS, "JPEG", restart_marker_rows=1), "bmp": encode(COLOURS, "BMP"), "tiff": encode(RAMP,
    "TIFF"),
    "lzw": encode(COLOURS, "TIFF", compression="tiff_lzw"), "deflate": encode(RAMP,
    "TIFF", compression="tiff_adobe_deflate"),
    "packbits": encode(RAMP, "TIFF", compression="packbits"), "pgm": encode(RAMP, "PPM"), "webp": encode(COLOURS,
    "WEBP"),
    "lossless webp": encode(COLOURS, "WEBP", lossless=True),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_half_a_file_is_never_a_picture(name, capfd):
    data = WHOLE[name]
    decode(data)
    for length in {*(len(data) * eighth // 8 for eighth in range(8)), *range(len(data) - 40, len(data) - 4, 7)}:
        with pytest.raises(TruncatedImageError):
            decode(data[:length])
    capfd.readouterr()  # libtiff says it to stderr as well


@pytest.mark.parametrize("name", ["png", "16-bit png", "jpeg", "progressive", "restart"])
def test_a_file_that_lacks_its_last_byte_or_is_still_zeros_is_never_a_picture(name):
    """A copying client makes the file at its full size first: the size stands still, and the end is zeros."""
    data = WHOLE[name]
    for keep in (len(data) - 1, len(data) - 2, len(data) * 7 // 8, len(data) // 2):
        with pytest.raises(TruncatedImageError):
            decode(data[:keep] + bytes(len(data) - keep))
        with pytest.raises(TruncatedImageError):
            decode(data[:keep])


NOISE = np.random.default_rng(20261122).integers(0, 255, (400, 600, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "options",
    [{}, {"restart_marker_rows": 1}, {"subsampling": 0, "quality": 95}, {"optimize": True}],
    ids=str,
)
@pytest.mark.parametrize("length", [512, 16_384])
def test_a_jpeg_that_lost_a_block_within_is_never_a_picture(options, length):
    for pixels_ in (NOISE, NOISE[:, :, 0]):
        data = encode(pixels_, "JPEG", **options)
        decode(data)
        at = len(data) // 3
        with pytest.raises(TruncatedImageError):
            decode(data[:at] + bytes(length) + data[at + length :])


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"progressive": True}, {"quality": 1}], ids=str)
@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_flat_jpeg_is_a_picture_whatever_its_tables(options, level):
    """With tables made for it a flat picture is nothing but zeros."""
    for mode in ("L", "RGB"):
        flat = Image.new(mode, (2000, 1500), level if mode == "L" else (level,) * 3)
        assert abs(int(pixels(encode(flat, "JPEG", **options)).mean()) - level) <= 2


def test_zeros_that_lie_in_a_segment_of_a_jpeg_are_no_hole():
    data = WHOLE["jpeg"]
    padded = data[:2] + b"\xff\xe1" + (5002).to_bytes(2, "big") + bytes(5000) + data[2:]
    assert np.array_equal(pixels(padded), pixels(data))


@pytest.mark.parametrize("form", ["BMP", "PPM", "TIFF"])
def test_a_file_without_an_end_that_is_zeros_there_is_marked(form):
    """A black bottom and a file of which nothing more has arrived are the same bytes."""
    assert not decode(encode(NOISE, form)).maybe_preallocated
    black = NOISE.copy()
    black[:40] = black[-40:] = 0  # BMP begins with the bottom row
    assert decode(encode(black, form)).maybe_preallocated
    data = encode(NOISE, form)
    assert decode(data[: len(data) - 4096] + bytes(4096)).maybe_preallocated
    assert not decode(encode(black, "PNG") + bytes(5000)).maybe_preallocated


def test_a_flipped_bit_in_a_png_is_noticed():
    data = WHOLE["png"]
    at = data.index(b"IDAT") + 12
    with pytest.raises(TruncatedImageError, match="checksum"):
        decode(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


@pytest.mark.parametrize("name", ["png", "jpeg", "progressive"])
def test_what_a_camera_appends_does_no_harm(name):
    for tail in (b"\0" * 500, b"serial 4711", WHOLE["jpeg"]):
        assert np.array_equal(pixels(WHOLE[name] + tail), pixels(WHOLE[name]))


def test_a_jpeg_with_a_preview_in_its_exif_is_not_whole_because_the_preview_is():
    preview = encode(RAMP[:8, :8], "JPEG")
    data = WHOLE["jpeg"]
    segment = b"\xff\xe1" + (len(preview) + 2).to_bytes(2, "big") + preview
    data = data[:2] + segment + data[2:]
    decode(data)
    with pytest.raises(TruncatedImageError):
        decode(data[:-2])


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header promises this size, and little behind it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (2**31 - 1, 1), (1, 2**31 - 1), (8193, 8192)])
def test_a_header_that_promises_too_much_is_refused_before_a_pixel_is_made(width, height, monkeypatch):
    monkeypatch.setattr(module.PngImagePlugin.PngImageFile, "load", None)
    with pytest.raises(ImageError) as caught:
        decode(png_of(width, height))
    assert caught.value.code == "image_too_large"
    assert not isinstance(caught.value, TruncatedImageError)


@pytest.mark.parametrize("size", [(1, 1), (15, 400), (400, 15)])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "TIFF", "PPM", "WEBP"])
def test_a_picture_of_fewer_pixels_than_can_show_a_weld_is_refused(form, size):
    with pytest.raises(ImageError) as caught:
        decode(encode(Image.new("L", size, 99), form))
    assert caught.value.code == "image_too_small"
    assert not isinstance(caught.value, TruncatedImageError)


def test_the_limit_is_the_callers():
    assert decode(WHOLE["png"], max_pixels=1200).width == 40
    with pytest.raises(ImageError, match="image_too_large"):
        decode(WHOLE["png"], max_pixels=1199)


def test_text_that_inflates_without_end_is_no_way_in():
    """A compressed text chunk of 64 MB in a small file."""
    text = b"k\0\0" + zlib.compress(bytes(64 * 1024 * 1024), 9)
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    data = WHOLE["png"]
    end = data.index(b"IDAT") - 4
    assert code_of(data[:end] + chunk + data[end:]) in (None, "unreadable_image")


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"", "unreadable_image"), (b"GIF89a" + bytes(50), "unsupported_format"), (b"hello", "unsupported_format"),
     (b"\x89PNG\r\n\x1a\n", "unreadable_image"), (b"\xff\xd8\xff", "unreadable_image"), (bytes(10_000),
     "unsupported_format")],
)  # fmt: skip
def test_what_is_no_image_has_a_stable_code(data, code):
    with pytest.raises(TruncatedImageError) as caught:
        decode(data)
    assert caught.value.code in (code, "unsupported_format")
    assert "\n" not in str(caught.value)


@given(
    st.binary(max_size=400),
    st.sampled_from(sorted(set(WHOLE) - {"tiff", "lzw", "deflate", "packbits"})),
    st.integers(0, 2000),
)
def test_no_bytes_raise_anything_else(noise, name, at):
    data = WHOLE[name]
    for bad in (noise, data[:at] + noise + data[at:], data[:at] + noise + data[at + len(noise) :]):
        assert code_of(bad) in (None, "unreadable_image", "unsupported_format", "image_too_large")


def test_a_picture_from_an_array():
    assert (Picture.from_array(RAMP).width, Picture.from_array(COLOURS).image.mode) == (40, "RGB")
    assert np.array_equal(np.asarray(Picture.from_array(RAMP[:, ::2]).image), RAMP[:, ::2])
