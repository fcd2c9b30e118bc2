"""The pipeline as two ``process(content)`` scripts, for people who run it in the vendor's workbench.

Invariants: the scripts stand alone (numpy and Pillow); their numbers equal the agent's to 1e-5, which a test shows for
every kind of image; the agent writes them and never runs them.
"""

from __future__ import annotations

import msgspec

from agent.bundle.manifest import Manifest

PREPROCESSING, POSTPROCESSING = "weldingPreProcessing.py", "weldingPostProcessing.py"


def scripts(manifest: Manifest) -> dict[str, bytes]:
    """Entry name to source text of the two scripts, with the manifest's values written in."""
    spec = msgspec.to_builtins(manifest.preprocessing)
    head = f"{manifest.name} {manifest.version}"
    values = {
        "HEAD": head,
        "SIZE": repr(tuple(spec["size"])),
        "CROP": repr(tuple(spec["crop"]) if spec["crop"] else None),
        "FILTER": spec["filter"].upper(),
        "GAP": repr(spec["reducing_gap"]),
        "LABELS": repr(list(manifest.labels)),
    }
    return {PREPROCESSING: _fill(_PRE, values), POSTPROCESSING: _fill(_POST, values)}


def _fill(template: str, values: dict[str, str]) -> bytes:
    for name, value in values.items():
        template = template.replace(f"@{name}@", value)
    return template.encode()


_PRE = '''"""@HEAD@: preprocessing. process(content): bytes of an image file -> {"input": float32 [1, 128, 128, 3]}."""
import io

import numpy as np
from PIL import Image, ImageOps

SIZE = @SIZE@  # width, height
CROP = @CROP@  # left, top, right, bottom as parts of the picture, or None
GAP = @GAP@


def _gray(image):
    """8-bit gray levels, upright. 16-bit levels are divided by 257; nothing depends on what the picture shows."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.int64)
        image = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    elif image.mode in ("1", "LA", "La"):
        image = image.convert("L")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    return image if image.mode == "L" else image.convert("L")


def process(content):
    """Image file as bytes (or a dict whose first value is that) to the model's input."""
    if isinstance(content, dict):
        content = next(iter(content.values()))
    with Image.open(io.BytesIO(bytes(content))) as opened:
        opened.load()
        image = _gray(opened)
    box = None
    if CROP is not None:
        box = (CROP[0] * image.width, CROP[1] * image.height, CROP[2] * image.width, CROP[3] * image.height)
    if image.size != SIZE or box is not None:
        image = image.resize(SIZE, Image.Resampling.@FILTER@, box=box, reducing_gap=GAP)
    scaled = np.asarray(image, dtype=np.uint8).astype(np.float32) / np.float32(255)
    return {"input": np.repeat(scaled[np.newaxis, :, :, np.newaxis], 3, axis=3)}
'''

_POST = '''"""@HEAD@: postprocessing. process(content): a model's output -> {"probability": [...], "class": "..."}."""
import numpy as np

LABELS = @LABELS@


def process(content):
    """Outputs of the model (a list of arrays, a dict by name, or the first output) to class and probabilities."""
    if isinstance(content, dict):
        content = next(iter(content.values()))
    elif isinstance(content, (list, tuple)) and len(content) and np.ndim(content[0]) > 0:
        content = content[0]
    probability = np.asarray(content, dtype=np.float32).reshape(-1)[: len(LABELS)]
    return {"probability": [float(p) for p in probability], "class": LABELS[int(np.argmax(probability))]}
'''
