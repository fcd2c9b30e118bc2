"""Files that no pattern matches are left alone, and not in silence: one line a suffix."""

from __future__ import annotations

import logging

import pytest

from agent.sources import notes


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    return [message for message in messages if "patterns" in message]


def test_each_suffix_is_named_once(bench, png, caplog):
    (bench.captures / "s.d").mkdir()
    for name in ("a.gif", "b.GIF", "s.d/c.raw", "s.d/noend", "d.png", "d.json", "e.png.part", "f.tmp", ".g.bmp"):
        (bench.captures / name).write_bytes(b"{}" if name == "d.json" else png)
    (bench.captures / "folder.bmp").mkdir()
    running = bench.watch(rescan_s=0.1, patterns=["*.png"])
    running.until_frames(1)
    (bench.captures / "next.png").write_bytes(png)
    running.until_frames(2)
    assert sorted(line.split()[4] for line in lines_of(caplog)) == ["*.gif", "*.raw", "without"]
    assert running.health.counters()["suffixes_unmatched"] == 3


def test_a_flood_of_suffixes_is_no_flood_of_lines(bench, png, caplog):
    for number in range(50):
        (bench.captures / f"a.{number}").write_bytes(png)
    running = bench.once()
    lines = lines_of(caplog)
    assert len(lines) == running.health.counters()["suffixes_unmatched"] == notes.SUFFIXES == 20
    assert "further suffixes are not named" in lines[-1]
