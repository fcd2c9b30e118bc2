"""What a kill cannot show: the order of syncs, read from strace. A power cut undoes whatever was not synced before."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

_STATION = """
import os, sys
from pathlib import Path
from agent.clock import SystemClock
from agent.config import ResultsConfig
from agent.delivery.json_files import JsonFiles
from agent.ledger import Ledger
from tests.support.results import an_entry

root = Path(sys.argv[1])
ledger = Ledger.open(root / "state", SystemClock())
ledger.register(["files"])
sink = JsonFiles(ResultsConfig(directory=str(root / "results")))
os.write(1, b"MARK open")
first = ledger.commit([an_entry(0)])
os.write(1, b"MARK first committed")
sink.deliver(first)
ledger.advance("files", 1)
ledger.save_cursors()
os.write(1, b"MARK begin")
ledger.commit([an_entry(1), an_entry(2)])
os.write(1, b"MARK committed")
sink.deliver(ledger.after(1))
os.write(1, b"MARK delivered")
ledger.advance("files", 3)
ledger.save_cursors()
os.write(1, b"MARK cursor written")
ledger.commit([an_entry(n) for n in range(3, 8)])
os.write(1, b"MARK five more")
sink.deliver(ledger.after(3))
os.write(1, b"MARK end")
"""


def test_each_step_is_synced_before_the_next_one_relies_on_it(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    traced = "trace=fsync,fdatasync,syncfs,link,linkat,unlink,unlinkat,rename,renameat,renameat2,write,pwrite64"
    command = ["strace", "-f", "-y", "-s", "64", "-e", traced, "-o", str(trace), sys.executable, "-c", _STATION]
    subprocess.run([*command, str(tmp_path)], check=True, capture_output=True, cwd=Path(__file__).parents[2])
    steps = [step for line in trace.read_text().splitlines() if (step := _step(line))]
    assert steps[steps.index("MARK first committed") - 1] == "sync wal", "from the very first commit on"
    steps = steps[steps.index("MARK begin") :]
    committed, delivered = steps.index("MARK committed"), steps.index("MARK delivered")

    commit = steps[:committed]
    assert commit[-1] == "sync wal", "the ledger is synced before anybody hears of the commit"
    assert commit.count("sync wal") == 1, "two results, one sync"

    delivery = steps[committed + 1 : delivered]
    assert delivery == [
        *["write tmp", "sync tmp"] * 2,
        *["link tmp to json", "unlink tmp"] * 2,
        "sync day",
        *("write jsonl", "sync jsonl"),
    ]
    cursor = steps[delivered + 1 : steps.index("MARK cursor written")]
    assert set(cursor) == {"write wal"}, "a cursor is written after the delivery, and needs no sync of its own"
    assert steps[steps.index("MARK five more") + 1 : steps.index("MARK end")] == [
        *["write tmp"] * 5,
        "syncfs results",
        *["link tmp to json", "unlink tmp"] * 5,
        "sync day",
        *("write jsonl", "sync jsonl"),
    ]


def _step(line: str) -> str | None:
    """A line of the trace in a word or two: what was done to which kind of file."""
    if marked := re.search(r'"(MARK [a-z ]+)"', line):
        return marked[1]
    if " = -1 " in line:  # such as looking for a temporary file that a kill left
        return None
    call = re.search(r"\s(\w+)\(", line)
    kinds = [_kind(path) for path in re.findall(r'<(/[^>]*)>|"(/[^"]*)"', line) for path in path if path]
    kinds = [kind for kind in kinds if kind]
    if call is None or not kinds:
        return None
    if call[1].startswith("link"):
        return f"link {kinds[-2]} to {kinds[-1]}"
    verbs = {"fsync": "sync", "fdatasync": "sync", "pwrite64": "write", "unlinkat": "unlink"}
    return f"{verbs.get(call[1], call[1])} {kinds[-1]}"


def _kind(path: str) -> str | None:
    if path.endswith(("-wal", ".tmp", ".jsonl", ".json")):
        return re.split(r"[-.]", path)[-1]
    if path.endswith("/results"):
        return "results"
    return "day" if re.fullmatch(r".*/results/\d{4}-\d\d-\d\d", path) else None
