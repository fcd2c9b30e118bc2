"""Bad images, made from good ones by mutation, over every format that the agent reads."""

from __future__ import annotations

import io
import random
from typing import Any

import numpy as np
from PIL import Image

SEED = 20261122
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "png": ("PNG", {}), "jpg": ("JPEG", {}), "progressive.jpg": ("JPEG", {"progressive": True}), "bmp": ("BMP", {}),
    "tif": ("TIFF", {}), "lzw.tif": ("TIFF", {"compression": "tiff_lzw"}),
    "deflate.tif": ("TIFF", {"compression": "tiff_adobe_deflate"}), "pgm": ("PPM", {}), "webp": ("WEBP", {}),
    "lossless.webp": ("WEBP", {"lossless": True}),
}  # fmt: skip
CUTS = (*(f"cut{eighth}" for eighth in range(8)), "short")  #: kinds that lack bytes at their end


def originals() -> dict[str, bytes]:
    """One dark picture of noise (40 high, 56 wide) in every form, by suffix: a bundle by brightness finds it good."""
    noise = np.random.default_rng(SEED).integers(0, 200, (40, 56), dtype=np.uint8)
    found = {}
    for suffix, (form, options) in FORMS.items():
        stream = io.BytesIO()
        Image.fromarray(noise).save(stream, form, **options)
        found[suffix] = stream.getvalue()
    return found


def mutations(data: bytes, rng: random.Random) -> dict[str, bytes]:
    """Cuts, holes, flipped and shuffled bytes, wild headers, doubled and padded files, by kind."""
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
    return {
        **{f"cut{eighth}": data[: len(data) * eighth // 8] for eighth in range(8)},
        "short": data[:-1],
        "half zeros": data[:half] + bytes(len(data) - half),
        "halves swapped": data[half:] + data[:half],
        "flipped": bytes(flipped),
        "several": bytes(several),
        "head": bytes(head),
        "one less": data[:at] + data[at + 1 :],
        "stutter": data[:at] + data[at : at + 20] * 3 + data[at:],
        "noise after head": data[:64] + rng.randbytes(len(data)),
        "noise": rng.randbytes(len(data)),
        "inserted": data[:30] + b"\xff" * 200 + data[30:],
        "twice": data + data,
        "zeros after": data + b"\0" * 1000,
    }


def corpus() -> dict[str, bytes]:
    """210 files by name, ``<kind>.<suffix>``, always the same."""
    rng = random.Random(SEED)
    return {
        f"{kind}.{suffix}": bad for suffix, data in originals().items() for kind, bad in mutations(data, rng).items()
    }


def parted(name: str) -> tuple[str, str]:
    """Kind and suffix of a file of the corpus."""
    kind, _, suffix = name.partition(".")
    return kind, suffix


def damage_is_detectable(name: str, data: bytes) -> bool:
    """Whether its format lets anybody tell: PNG by its checksums; a cut by what the header promises."""
    kind, suffix = parted(name)
    return kind in CUTS or (suffix == "png" and not data.startswith(originals()[suffix]))
