"""What the shadow's lines are worth: counts, intervals over parts, and labels that a person gave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.app.bundles.comparison import _Rate, compare
from agent.app.bundles.labels import Labels
from agent.cli.main import main
from agent.errors import UsageError
from agent.wilson import wilson

MODEL = {"name": "steel", "version": "1.0.0", "variant": "fp32", "sha256": "0" * 64}
IMAGE = {"bytes": 1, "width": 1, "height": 1, "source": "captures"}
TIMING = {"decode": 9.0, "preprocess": 1.0, "inference": 2.0, "total": 12.0}


def a_line(number: int, active: str, candidate: str, part: str | None = None, version: str = "2.0.0") -> dict[str, Any]:
    return {
        "result_id": f"r{number}", "part_id": part, "weld_id": None, "job_id": None,
        "image": {**IMAGE, "name": f"{number}.png", "sha256": f"{number:064x}"},
        "created_at": f"2026-11-22T10:00:{number % 60:02d}.000Z", "evaluation": candidate,
        "model": {**MODEL, "version": version}, "timing_ms": TIMING, "skipped": number % 2,
        "active": {"evaluation": active, "class": None, "probability": None, "model": MODEL, "timing_ms": TIMING},
    }  # fmt: skip


def write(folder: Path, lines: list[dict[str, Any]], day: str = "2026-11-22") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{day}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def labelled(tmp_path: Path, text: str) -> Labels:
    (tmp_path / "labels.csv").write_text(text)
    return Labels(tmp_path / "labels.csv")


def test_counts(tmp_path: Path) -> None:
    verdicts = [("OK", "OK"), ("OK", "NotOK"), ("NotOK", "OK"), ("NotOK", "NotOK"), ("NotDecidable", "OK")]
    folder = write(tmp_path / "s", [a_line(number, *one) for number, one in enumerate(verdicts)])
    labels = labelled(tmp_path, "result_id,label\nr0,OK\nr1,NotOK\nr2,OK\nr3,NotOK\nr4,NotOK\nr9,OK\nr8,\n")
    told = compare(folder, labels)
    assert told["table"]["OK"] == {"OK": 1, "NotOK": 1, "NotDecidable": 0}
    assert (told["frames"], told["skipped"], told["agreement"]["count"]) == (5, 2, 2)
    reviewed = told["labelled"]
    assert (reviewed["good"], reviewed["defects"], reviewed["not_met"]) == (2, 3, 1)
    counts = {
        figure: {who: (one["count"], one["of"]) for who, one in reviewed[figure].items()}
        for figure in ("escapes", "overkill", "undecided")
    }
    assert counts == {
        "escapes": {"active": (1, 3), "candidate": (1, 3)},
        "overkill": {"active": (1, 2), "candidate": (0, 2)},
        "undecided": {"active": (1, 5), "candidate": (0, 5)},
    }
    assert told["ms"]["candidate"] == {"p50": 3.0, "p99": 3.0}, "without decoding, which both share"
    assert [one["result_id"] for one in told["disagreements"]] == ["r1", "r2", "r4"]


def test_no_escape_among_few_defects_is_said_with_what_it_may_be() -> None:
    rate = _Rate()
    for _ in range(12):
        rate.add(None, False)
    none = rate.interval()
    assert (none.count, none.of, none.low) == (0, 12, 0.0)
    assert none.high == pytest.approx(0.2425, abs=1e-3), "Wilson 1927, 0 of 12"


def test_frames_of_one_part_are_one_chance() -> None:
    alone, in_parts = _Rate(), _Rate()
    for number in range(300):
        alone.add(None, number < 150)
        in_parts.add(f"P{number // 100}", number < 150)
    few, many = in_parts.interval(), alone.interval()
    assert few.value == many.value == 0.5
    assert few.low is not None
    assert few.high is not None
    assert few.low < 0.1 < many.low < many.high < 0.9 < few.high  # type: ignore[operator]  # none is None, see above


def test_one_bad_part_of_eight_is_promised_no_better_than_wilson_does() -> None:
    rate = _Rate()
    for number in range(160):
        rate.add(f"P{number // 20}", number < 20)
    found = rate.interval()
    assert found.low is not None
    assert found.high is not None
    assert found.low <= 0.0225
    assert found.high >= 0.4708, "Wilson 1927, 1 of 8"


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=60), st.booleans())
def test_an_interval_holds_its_value_and_stays_a_share(frames: list[tuple[int, bool]], parts: bool) -> None:
    rate = _Rate()
    for part, hit in frames:
        rate.add(f"P{part}" if parts else None, hit)
    found = rate.interval()
    assert found.value is not None
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low <= found.value <= found.high <= 1
    count = len({part for part, _ in frames}) if parts else len(frames)
    low, high = wilson(found.value, count)
    assert found.low <= low + 1e-12
    assert found.high >= high - 1e-12


def test_the_last_pair_of_bundles_is_compared_and_the_others_are_told(tmp_path: Path) -> None:
    old = [a_line(number, "OK", "OK") for number in range(3)]
    new = [a_line(number, "OK", "OK", version="3.0.0") for number in range(2)]
    folder = write(tmp_path / "s", old, "2026-11-21")
    write(folder, new)
    told = compare(folder)
    assert (told["candidate"]["version"], told["frames"], told["other_pairs"]) == (
        "3.0.0", 2, {"steel-1.0.0 (fp32), steel-2.0.0 (fp32)": 3}
    )  # fmt: skip
    assert compare(folder, candidate="steel-2.0.0")["frames"] == 3
    assert compare(folder, since="2026-11-22")["other_pairs"] == {}
    with pytest.raises(UsageError, match="nothing since 2026-11-23; the last day there is 2026-11-22"):
        compare(folder, since="2026-11-23")
    with pytest.raises(UsageError, match=r"there are steel-2\.0\.0, steel-3\.0\.0"):
        compare(folder, candidate="steel-9.0.0")
    with pytest.raises(UsageError, match="weldwatch bundle shadow NAME"):
        compare(tmp_path / "none")


def test_torn_lines_are_passed_over(tmp_path: Path) -> None:
    folder = write(tmp_path / "s", [a_line(0, "OK", "OK")])
    with (folder / "2026-11-22.jsonl").open("ab") as file:
        file.write(b'{"result_id": "r1", "part\n\xff\n[]\n{"result_id": "\xff"}\n')
    assert compare(folder)["frames"] == 1


def test_frames_of_no_part_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "shadow", [a_line(0, "OK", "OK", "A"), a_line(1, "OK", "OK"), a_line(2, "OK", "OK", "A")])
    assert main(["bundle", "compare", "--results", str(tmp_path)]) == 0
    assert "1 of 3 frames have no id and count as a part each: too kind" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the first line has nothing; it must name label and one of result_id, sha256, image"),
        ("result_id,verdict\nr,OK\n", "must name label"),
        ("result_id,label\nr0,ok\n", "line 2: found 'r0', 'ok'; a label is OK or NotOK"),
        ("result_id,label\nr0,OK\nr0,NotOK\n", "line 3: r0 is labelled OK and NotOK"),
        ("result_id,label\nr0,\n", "no line has a label"),
    ],
)
def test_labels_that_are_none(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        labelled(tmp_path, text)
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["a\nb.png", "a\N{LINE SEPARATOR}b.png", "a\x0bb.png"])
def test_a_name_with_a_line_in_it_labels_no_other_frame(tmp_path: Path, name: str) -> None:
    labels = labelled(tmp_path, f'image,label\n"{name}",OK\n')
    assert (labels.of("r0", None, name), labels.of("r1", None, "ab.png"), labels.of("r2", None, "b.png")) == (
        "OK", None, None
    )  # fmt: skip


def test_labels_as_an_office_program_writes_them(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_bytes("\ufeffimage;label\r\n0.png;OK\r\n".encode())
    labels = Labels(tmp_path / "l.csv")
    assert labels.of("r0", None, "0.png") == "OK"
    assert labels.of("r1", None, "0.png") == "OK"
    assert (labels.of("r2", None, "2.png"), labels.ambiguous(), labels.unmet()) == (None, 1, 0)
    (tmp_path / "l.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not a CSV in UTF-8"):
        Labels(tmp_path / "l.csv")
    with pytest.raises(UsageError, match="No such file"):
        Labels(tmp_path / "none.csv")
