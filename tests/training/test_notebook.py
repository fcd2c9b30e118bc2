"""The guided tour runs from its first cell to its last, on small data and random weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "training" / "notebooks" / "from_frames_to_verdict.ipynb"
SMALL = """
RECORDINGS, FRAMES, SIZE = 12, 10, (96, 117)
PER_CLASS = {"train": 30, "val": 10, "test": 10}
EPOCHS, WEIGHTS = 1, "random"
"""


@pytest.mark.slow
def test_every_cell_runs(tmp_path: Path) -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    texts = []
    for cell in cells:
        assert cell["outputs"] == [], "the notebook is kept without outputs"
        texts.append("".join(cell["source"]))
        if "parameters" in cell["metadata"].get("tags", []):
            texts.append(SMALL)
    assert SMALL in texts
    # Spawned workers import the script again: what is not a definition runs once, as in a notebook's own process.
    indented = "\n".join(f"    {line}" for line in "\n".join(texts).splitlines())
    script = tmp_path / "tour.py"
    script.write_text(f'if __name__ == "__main__":\n{indented}\n', encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "weld-demo-1.0.0.pipeline" in done.stdout
    assert "SYNTHETIC" in done.stdout
