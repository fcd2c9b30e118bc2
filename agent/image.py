"""From encoded bytes to gray levels: the one decoder of agent and training.

Invariants
- Bytes are hostile. The format is read from the content, only the formats below are tried, and the header's size is
  checked before a pixel is allocated.
- No scaling depends on the data: 16-bit gray maps 0…65535 to 0…255 by ``round(v / 257)``, whatever the picture shows.
- A picture that does not decode to its last line is never handed on, nor one whose file is not closed the way its
  format closes it (PNG: checksums and IEND; JPEG: end of image; TIFF: its directory): decoders fill in what is
  missing, and say nothing.
- A JPEG with a hole of zeros (a block that a transfer lost) is refused where zeros cannot be a picture, which their
  Huffman tables tell; the standard tables, which cameras use, do. With tables made for a picture, as
  progressive ones have, zeros may be a flat part of it: such a hole is not told from one.
- The other formats have no end: a file that ends in zeros may be preallocated or simply black there, so the picture is
  marked ``maybe_preallocated`` and whoever knows the file's age decides. Less than ``_ZERO_TAIL`` is not noticed.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
from PIL import (
    BmpImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from agent.errors import ImageError, TruncatedImageError

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

#: What a weld camera writes. Imported by name above, so that a stray file does not make Pillow load forty decoders.
FORMATS = tuple(
    plugin.format
    for plugin in (
        PngImagePlugin.PngImageFile,
        JpegImagePlugin.JpegImageFile,
        BmpImagePlugin.BmpImageFile,
        TiffImagePlugin.TiffImageFile,
        PpmImagePlugin.PpmImageFile,
        WebPImagePlugin.WebPImageFile,
    )
)
#: 64 megapixels: above any process camera, and 64 MB of gray at most in memory.
MAX_PIXELS = 64 * 1024 * 1024

#: Pixels: below there is no weld to be seen, and what would be judged is mostly made up by the scaling.
MIN_SIDE = 16

#: What Pillow's decoders raise on damaged bytes. None of them tells a cut from a wrong byte, so the caller, who knows
#: whether the file may still grow, decides.
_DAMAGED = (
    ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError, SyntaxError, TypeError,
    ValueError, struct.error, zlib.error,
)  # fmt: skip

#: Anything but a stuffed byte, a restart or a fill byte, none of which ends entropy-coded data.
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")

_HOLE = bytes(512)  #: zeros in a JPEG's entropy-coded data: a sector that was never written
_ZERO_TAIL = bytes(4096)  #: zeros at the end of a file: a page that was never written

_EXIF_DATETIME_ORIGINAL, _EXIF_SUBSEC_ORIGINAL, _EXIF_OFFSET_ORIGINAL = 0x9003, 0x9291, 0x9011
_EXIF_IFD = 0x8769


@dataclass(frozen=True)
class Picture:
    """A decoded image, turned upright, before any preprocessing that a bundle asks for."""

    image: PilImage  #: mode "L" or "RGB", upright
    width: int  #: pixels, upright
    height: int
    taken_at: datetime | None = None  #: EXIF DateTimeOriginal; naive where the camera gave no zone
    maybe_preallocated: bool = False  #: the file ends in zeros: black, or not written to its end yet

    @classmethod
    def from_array(cls, array: np.ndarray) -> Picture:
        """A picture from uint8 gray levels [height, width] or colours [height, width, 3] (RGB)."""
        image = Image.fromarray(np.ascontiguousarray(array))
        return cls(image, image.width, image.height)


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode an encoded image completely.

    Raises ``TruncatedImageError`` where more bytes could still make it whole (empty, or ends too soon) and
    ``ImageError`` where they could not; the code is ``unsupported_format``, ``image_too_large``, ``image_too_small`` or
    ``unreadable_image``.
    """
    if not data:
        raise TruncatedImageError("unreadable_image", "the file is empty")
    try:
        with warnings.catch_warnings():
            # Pillow warns of large headers and odd EXIF; the size is our own check, the rest does not matter here.
            warnings.simplefilter("ignore")
            return _decode(data, max_pixels)
    except UnidentifiedImageError:
        raise TruncatedImageError("unsupported_format", f"not an image of {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise ImageError("image_too_large", f"more than {max_pixels} pixels") from None
    except _DAMAGED as error:
        raise TruncatedImageError("unreadable_image", _one_line(error)) from None


def _decode(data: bytes, max_pixels: int) -> Picture:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.width * image.height > max_pixels:
            raise ImageError("image_too_large", f"{image.width}×{image.height}, more than {max_pixels} pixels")
        check_not_too_small(image.width, image.height)
        _check_whole(data, image.format)
        image.load()
        exif = image.getexif()
        taken_at = _taken_at(exif) if exif else None
        upright = ImageOps.exif_transpose(image) if exif else image
        plain = _to_8_bit(upright)
        closed = image.format in ("PNG", "JPEG", "MPO")
        zeros = not closed and data.endswith(_ZERO_TAIL)
        return Picture(plain, plain.width, plain.height, taken_at, maybe_preallocated=zeros)


def check_not_too_small(width: int, height: int) -> None:
    """``ImageError`` where a side has less than ``MIN_SIDE`` pixels."""
    if min(width, height) < MIN_SIDE:
        raise ImageError("image_too_small", f"{width}×{height}, less than {MIN_SIDE}×{MIN_SIDE} pixels")


def _check_whole(data: bytes, form: str | None) -> None:
    """``TruncatedImageError`` for what is cut, preallocated or damaged where Pillow would not notice."""
    if form == "PNG":
        _check_png(memoryview(data))
    elif form == "TIFF":
        _check_tiff(data)
    elif form in ("JPEG", "MPO"):
        _check_jpeg(data)


def _check_png(data: memoryview) -> None:
    """Walk the chunks up to IEND and compare their checksums (PNG, third edition, 5.3 to 5.6)."""
    at = 8
    while True:
        head = data[at : at + 8]
        if len(head) < 8:
            raise TruncatedImageError("unreadable_image", "the PNG ends before its IEND chunk")
        (length,) = struct.unpack(">I", head[:4])
        end = at + 8 + length
        if len(data) < end + 4:
            raise TruncatedImageError("unreadable_image", "the PNG ends within a chunk")
        if zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise TruncatedImageError("unreadable_image", "a checksum of the PNG is wrong")
        if bytes(head[4:]) == b"IEND":
            return
        at = end + 4


def _check_tiff(data: bytes) -> None:
    """The first directory of a TIFF, which mostly stands at the end, is there to its last byte (TIFF 6.0, section 2).

    That the pixels are all there the decoder sees itself.
    """
    order = "<" if data[:2] == b"II" else ">"
    if data[2:4] in (b"+\0", b"\0+"):  # BigTIFF: all offsets are 64 bits
        at, count, entry, after = 8, "Q", 20, 8
    else:
        at, count, entry, after = 4, "H", 12, 4
    try:
        (directory,) = struct.unpack_from(order + ("Q" if after == 8 else "I"), data, at)
        (entries,) = struct.unpack_from(order + count, data, directory)
    except (struct.error, OverflowError):
        raise TruncatedImageError("unreadable_image", "the TIFF ends before its directory") from None
    if directory + struct.calcsize(order + count) + entries * entry + after > len(data):
        raise TruncatedImageError("unreadable_image", "the TIFF ends within its directory")


def _check_jpeg(data: bytes) -> None:
    """Walk the markers up to the end of image (ITU-T T.81, annex B)."""
    at, holed = 2, _HOLE in data
    zeros: dict[int, int] = {}
    while True:
        marker = _JPEG_MARKER.search(data, at)
        if marker is None:
            raise TruncatedImageError("unreadable_image", "the JPEG has no end of image")
        at = marker.end()
        code = data[at - 1]
        if code == 0xD9:
            return
        if code == 0xD8:  # a thumbnail lies within a segment, which is passed over: here another picture begins
            raise TruncatedImageError("unreadable_image", "the JPEG is cut, and another one begins within it")
        if code == 0x01:  # all others have a length; entropy-coded data follows the SOS segment
            continue
        segment = data[at + 2 : at + int.from_bytes(data[at : at + 2], "big")]
        at += 2 + len(segment)
        if holed and code == 0xC4:
            zeros.update(_meaning_of_zeros(segment))
        elif holed and code == 0xDA and _zeros_are_no_picture(segment, zeros):
            end = _JPEG_MARKER.search(data, at)
            if data.find(_HOLE, at, end.start() if end else len(data)) >= 0:
                raise TruncatedImageError("unreadable_image", "the JPEG has a hole: a block of zeros within its data")


def _meaning_of_zeros(segment: bytes) -> dict[int, int]:
    """AC table to the symbol that zero bits stand for, its first, of a DHT segment (T.81, B.2.4.2 and annex C)."""
    found, at = {}, 0
    while at + 17 < len(segment):
        kind, symbols = segment[at] >> 4, sum(segment[at + 1 : at + 17])
        if kind == 1 and symbols:
            found[segment[at] % 16] = segment[at + 17]
        at += 17 + symbols
    return found


def _zeros_are_no_picture(scan: bytes, zeros: dict[int, int]) -> bool:
    """Whether a long run of zeros in this scan would be the same coefficient over and over (T.81, B.2.3 and F.1.2.2).

    A symbol without a size (its low four bits) ends a block or a band: zeros are then a flat part. In scans that carry
    no AC coefficients, or refine them, they are bits of the picture.
    """
    count = scan[0] if scan else 0
    if len(scan) < 4 + 2 * count:
        return False
    last, refines = scan[2 + 2 * count], scan[3 + 2 * count] >> 4
    tables = [scan[2 + 2 * index] % 16 for index in range(count)]
    return last > 0 and not refines and any(zeros.get(table, 0) % 16 for table in tables)


def _to_8_bit(image: PilImage) -> PilImage:
    """Any mode to "L" or "RGB". An alpha channel is dropped: a camera's picture is what it saw, not how it blends."""
    mode = image.mode
    if mode in ("L", "RGB"):
        return image
    if mode.startswith("I;16") or mode == "I":
        # Pillow opens 16-bit gray as "I;16" or, from some formats, as 32-bit "I".
        return _from_16_bit(np.asarray(image))
    if mode in ("1", "LA", "La"):
        return image.convert("L")
    if mode == "P":
        # A gray palette (BMP writes 8-bit gray so) stays gray; any other becomes colour.
        return image.convert("RGB")
    if mode in ("RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV", "PA"):
        return image.convert("RGB")
    raise ImageError("unsupported_format", f"pixels of mode {mode}; save 8 or 16-bit gray, RGB, RGBA or CMYK")


def _from_16_bit(levels: np.ndarray) -> PilImage:
    """Levels 0…65535 [height, width] to 8-bit gray, some rows at a time: large pictures must not need large sums."""
    gray = np.empty(levels.shape, np.uint8)
    for top in range(0, len(levels), 64):
        rows = levels[top : top + 64].astype(np.int64)
        if rows.min() < 0 or rows.max() > 65535:
            raise ImageError("unsupported_format", "32-bit gray levels; save 8 or 16 bits a pixel")
        gray[top : top + 64] = (rows + 128) // 257
    return Image.fromarray(gray)


def _taken_at(exif: Image.Exif) -> datetime | None:
    """EXIF DateTimeOriginal, with its zone where the camera wrote one. Nonsense is unknown, not an error."""
    fields = exif.get_ifd(_EXIF_IFD)
    stamp = fields.get(_EXIF_DATETIME_ORIGINAL)
    if not isinstance(stamp, str):
        return None
    fraction = str(fields.get(_EXIF_SUBSEC_ORIGINAL, "")).strip()
    zone = str(fields.get(_EXIF_OFFSET_ORIGINAL, "")).strip()
    text = f"{stamp.strip()}.{fraction[:6] if fraction.isdigit() else '0'}"
    for form, value in (("%Y:%m:%d %H:%M:%S.%f%z", text + zone), ("%Y:%m:%d %H:%M:%S.%f", text)):
        try:
            return datetime.strptime(value, form)
        except ValueError:
            continue
    return None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
