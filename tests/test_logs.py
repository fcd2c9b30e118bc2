"""Log lines as people, programs and the journal read them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

SAY = """
from agent import logs
logs.set_up(as_json={as_json})
log = logs.log("sources")
log.info("station watches")
log.warning("source %s: folder_missing: %s", "a: b", "cap\\n<0>tures")
log.error("camera_stalled:torch: no frame")
log.info("disk_low is over; inspection goes on")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("inspector_failed: oh")
"""


def said(as_json: bool | None, *, journal: bool) -> list[str]:
    read, write = os.pipe()
    facts = os.fstat(write)
    environment = {**os.environ, "JOURNAL_STREAM": f"{facts.st_dev}:{facts.st_ino}" if journal else "1:2"}
    code = SAY.format(as_json=as_json)
    subprocess.run([sys.executable, "-c", code], stderr=write, env=environment, check=True)
    os.close(write)
    with os.fdopen(read, encoding="utf-8") as out:
        return out.read().splitlines()


def test_programs_get_code_and_source() -> None:
    lines = [json.loads(line) for line in said(True, journal=False)]
    assert [(line["level"], line["code"], line["source"]) for line in lines] == [
        ("INFO", None, None),
        ("WARNING", "folder_missing", "a: b"),
        ("ERROR", "camera_stalled", "torch"),
        ("INFO", "disk_low", None),
        ("ERROR", "inspector_failed", None),
    ]
    assert lines[1]["message"] == "source a: b: folder_missing: cap\n<0>tures"
    assert "ZeroDivisionError" in lines[-1]["exception"]


@pytest.mark.parametrize("as_json", [True, False, None])
def test_the_journal_gets_a_priority_for_each_line(as_json: bool | None) -> None:
    lines = said(as_json, journal=True)
    assert [line[:3] for line in lines[:4]] == ["<6>", "<4>", "<3>", "<6>"]
    assert {line[:3] for line in lines[4:]} == {"<3>"}
    assert (lines[0][3] == "{") == (as_json is not False), "JSON unless text is asked for"
    assert (len(lines) == 5) == (as_json is not False), "a traceback follows on lines of its own"


def test_elsewhere_it_is_text() -> None:
    lines = said(None, journal=False)
    assert "WARNING source a: b: folder_missing: cap\\n<0>tures" in lines[1]
    assert not lines[0].startswith("<")
