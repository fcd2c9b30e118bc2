"""Bad images, made from good ones by mutation over every format: a frame each, no crash, no stall."""

from __future__ import annotations

import io
import os
import random
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SEED = 20261122
FORMS = {
    "png": ("PNG", {}), "jpg": ("JPEG", {}), "progressive.jpg": ("JPEG", {"progressive": True}), "bmp": ("BMP", {}),
    "tif": ("TIFF", {}), "lzw.tif": ("TIFF", {"compression": "tiff_lzw"}),
    "deflate.tif": ("TIFF", {"compression": "tiff_adobe_deflate"}), "pgm": ("PPM", {}), "webp": ("WEBP", {}),
    "lossless.webp": ("WEBP", {"lossless": True}),
}  # fmt: skip


def originals() -> dict[str, bytes]:
    noise = np.random.default_rng(SEED).integers(0, 255, (40, 56), dtype=np.uint8)
    found = {}
    for name, (form, options) in FORMS.items():
        stream = io.BytesIO()
        Image.fromarray(noise).save(stream, form, **options)
        found[name] = stream.getvalue()
    return found


def mutations(data: bytes, rng: random.Random) -> list[bytes]:
    """Cuts, holes, flipped and shuffled bytes, wild headers, doubled and padded files."""
    at = rng.randrange(len(data))
    several = bytearray(data)
    for _ in range(30):
        several[rng.randrange(len(several))] = rng.randrange(256)
    head = bytearray(data)
    for index in range(8, min(40, len(head))):
        head[index] = rng.choice((0, 0x7F, 0xFF, head[index]))
    flipped = bytearray(data)
    flipped[at] ^= 1 << rng.randrange(8)
    half = len(data) // 2
    return [
        *(data[: len(data) * eighth // 8] for eighth in range(8)),
        data[:-1],
        data[:half] + bytes(len(data) - half),
        data[half:] + data[:half],
        bytes(flipped), bytes(several), bytes(head),
        data[:at] + data[at + 1 :],
        data[:at] + data[at:at + 20] * 3 + data[at:],
        data[:64] + os.urandom(0) + rng.randbytes(len(data)),
        rng.randbytes(len(data)),
        data + data,
        data + b"\0" * 1000,
        data[:30] + b"\xff" * 200 + data[30:],
    ]  # fmt: skip


@pytest.fixture(scope="module")
def corpus() -> dict[str, bytes]:
    rng = random.Random(SEED)
    return {
        f"{number:02d}.{name}": mutation
        for name, data in originals().items()
        for number, mutation in enumerate(mutations(data, rng))
    }


def test_each_bad_image_is_a_frame(bench, corpus, png, capfd):
    assert len(corpus) >= 200
    patterns = ["*.png", "*.jpg", "*.bmp", "*.tif", "*.pgm", "*.webp"]
    running = bench.watch(patterns=patterns, incomplete_s=1.0)
    for name, data in corpus.items():
        path: Path = bench.captures / name
        path.write_bytes(data)
    begin = time.monotonic()
    running.until_frames(len(corpus))
    assert time.monotonic() - begin < 30
    assert running.names() == sorted(corpus)
    assert {frame.problem.code for frame in running.frames if frame.problem} <= {
        "unreadable_image", "unsupported_format", "image_too_large",
    }  # fmt: skip
    assert all(frame.sha256 and frame.bytes == len(corpus[frame.name]) for frame in running.frames)
    (bench.captures / "next.png").write_bytes(png)
    assert running.until_frames(len(corpus) + 1)[-1].problem is None
    capfd.readouterr()  # libtiff and libjpeg speak to stderr by themselves


def test_a_cut_image_never_passes(corpus):
    """The cuts of the corpus, at every eighth of the bytes and one byte short."""
    from agent.errors import TruncatedImageError
    from agent.image import decode

    for name, data in corpus.items():
        if int(name[:2]) < 8:
            with pytest.raises(TruncatedImageError):
                decode(data)
