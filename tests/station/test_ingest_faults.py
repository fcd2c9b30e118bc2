"""A clock that is set, an archive that hangs: what happens under a station's feet. The agent runs in this process."""

from __future__ import annotations

import threading
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest

from agent.sources import moving
from tests.support.bundles import flat_png
from tests.support.inside import SetClock, running_inside
from tests.support.station import Station, until

DAY = 86_400


def test_a_clock_that_is_set_costs_no_image_its_result(tmp_path: Path) -> None:
    """Back to 1970 as without a battery, on by years as the first time service answers, and back again."""
    station, clock, count = Station(tmp_path), SetClock(), 0
    with running_inside(station, clock):
        for ahead in (0, -3600, 3600, -56 * 365 * DAY, 5 * 365 * DAY, -2, 0):
            clock.ahead = timedelta(seconds=ahead)
            for number in range(5):
                station.put(f"{count + number}.png", flat_png(number))
            count += 5
            station.wait_for(count, 10)  # none waits for the clock to come round
    results = station.lines()
    assert Counter(one["image"]["name"] for one in results) == Counter(f"{number}.png" for number in range(count))
    assert sorted(one["sequence"] for one in results) == list(range(1, count + 1))
    assert len({one["created_at"][:4] for one in results}) == 3
    assert len(station.files()) == count


@pytest.mark.quiet
def test_an_archive_that_hangs_holds_up_neither_inspection_nor_the_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a hard-mounted share whose server is gone; what was not archived then is archived after the next start."""
    archive, answers, asked, move = tmp_path / "archive", threading.Event(), threading.Event(), moving.move

    def hang(*where: object, **how: object) -> bytes | None:
        asked.set()
        answers.wait(60)
        return move(*where, **how)  # type: ignore[arg-type]  # handed on as it came

    station = Station(tmp_path / "station")
    station.settings["sources"][0].update(after="archive", archive=str(archive), rescan_s=0.2)
    station.write()
    monkeypatch.setattr(moving, "move", hang)
    try:
        with running_inside(station):
            station.put("first.png", flat_png(1))
            assert asked.wait(10)
            for number in range(100):
                station.put(f"{number}.png", flat_png(number))
            station.wait_for(101, 20)
            begin = time.monotonic()
        assert time.monotonic() - begin < 5
    finally:
        answers.set()
    monkeypatch.undo()
    with running_inside(station):
        until(lambda: len(list(archive.glob("*.png"))) == 101, "all to be archived")
    assert list(station.captures.iterdir()) == []
    assert len(station.lines()) == 101
