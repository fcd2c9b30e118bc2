"""Whatever an image was called, its result's file has a safe name that says where it came from."""

from __future__ import annotations

import json
import unicodedata
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.delivery.file_names import candidates, safe_stem, write_result_file
from agent.frame import readable_name
from tests.support.results import CREATED


@pytest.mark.parametrize(
    ("image", "stem"),
    [
        ("testDefectImage.PNG", "testDefectImage"),
        ("shift1/A17_J9_0042.png", "A17_J9_0042"),
        ("a.b.c.png", "a.b.c"),
        ("Naht Öl 100%.jpg", "Naht Öl 100%"),
        ("no_suffix", "no_suffix"),
        ("line\nbreak\t.png", "line%0Abreak%09"),
        ("esc\x1b[31m\x7f\x85.png", "esc%1B[31m%7F%C2%85"),
        ("right\u202eleft.png", "right%E2%80%AEleft"),
        (readable_name(b"caf\xe9_\xff.png"), "caf%E9_%FF"),
        (".png", "%2Epng"),
        ("..png", "%2E.png"),
        ("...", "%2E.."),
        ("", "_"),
        ("x" * 250 + ".png", "x" * 180),
        ("ö" * 120 + ".png", "ö" * 90),
        ("x" * 179 + "\x01y.png", "x" * 179),
    ],
)
def test_stems(image: str, stem: str) -> None:
    assert safe_stem(image) == stem


@given(st.binary(min_size=1, max_size=255).filter(lambda raw: b"/" not in raw and b"\0" not in raw))
def test_any_file_name_gives_a_name_that_every_file_system_takes(raw: bytes) -> None:
    name = next(candidates(readable_name(raw), CREATED))
    assert len(name.encode()) <= 255
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in name)
    assert "/" not in name
    assert not name.startswith(".")
    assert len(safe_stem(readable_name(raw)).encode()) <= 180


def test_the_time_is_compact_and_in_utc_and_a_suffix_counts() -> None:
    assert list(islice(candidates("a.png", CREATED), 3)) == [
        "a_20261122T102205141Z.json",
        "a_20261122T102205141Z_1.json",
        "a_20261122T102205141Z_2.json",
    ]


def test_a_one_shot_result_is_written_whole_and_overwrites_nothing(tmp_path: Path) -> None:
    paths = [write_result_file(tmp_path, "in/testDefectImage.PNG", CREATED, b'{"n": %d}' % n) for n in range(3)]
    assert [path.name for path in paths] == [
        f"testDefectImage_20261122T102205141Z{suffix}.json" for suffix in ("", "_1", "_2")
    ]
    assert [json.loads(path.read_bytes())["n"] for path in paths] == [0, 1, 2]
    assert len(list(tmp_path.iterdir())) == 3, "nothing temporary is left"
