"""Bad images, made from good ones by mutation over every format: a frame each, no crash, no stall."""

from __future__ import annotations

import pytest

from agent.errors import ImageError, TruncatedImageError
from agent.image import decode
from tests.support import mutations

CORPUS = mutations.corpus()


def test_each_bad_image_is_a_frame(bench, png, capfd):
    assert len(CORPUS) >= 200
    running = bench.watch(incomplete_s=1.0)
    for name, data in CORPUS.items():
        (bench.captures / name).write_bytes(data)
    running.until_frames(len(CORPUS))
    assert running.names() == sorted(CORPUS)
    assert {frame.problem.code for frame in running.frames if frame.problem} <= {
        "unreadable_image", "unsupported_format", "image_too_large", "image_too_small",
    }  # fmt: skip
    assert all(frame.sha256 and frame.bytes == len(CORPUS[frame.name]) for frame in running.frames)
    (bench.captures / "next.png").write_bytes(png)
    assert running.until_frames(len(CORPUS) + 1)[-1].problem is None
    capfd.readouterr()  # libtiff and libjpeg speak to stderr by themselves


@pytest.mark.parametrize("suffix", mutations.FORMS)
def test_what_is_cut_never_passes_at_whichever_byte(suffix):
    """The formats without a checksum as well: their headers say how much there should be."""
    data = mutations.originals()[suffix]
    for length in range(len(data)):
        with pytest.raises(TruncatedImageError):
            decode(data[:length])
    assert decode(data).width == 56


@pytest.mark.parametrize("suffix", mutations.FORMS)
def test_the_damage_that_a_format_shows_is_seen(suffix, capfd):
    for name, data in CORPUS.items():
        if mutations.parted(name)[1] == suffix and mutations.damage_is_detectable(name, data):
            with pytest.raises(ImageError):
                decode(data)
    capfd.readouterr()
