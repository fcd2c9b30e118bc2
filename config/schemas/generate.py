"""Write the JSON Schemas from the types that the agent itself uses: `make schemas`.

A test fails when the files are not what this would write. That of status is written by hand beside them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from agent.app.bundles.shadow import Shadowed
from agent.app.gauges import HealthReport
from agent.bundle.manifest import Manifest
from agent.result import Result

HERE = Path(__file__).parent
TITLES = {
    "result": "weldwatch.result/1: what the station says of one image. Fields are only ever added within /1.",
    "shadow": "weldwatch.shadow/1: what a candidate bundle says of an image, with the active bundle's verdict.",
    "health": "…/health: counters and gauges, every 10 s, not retained. Fields are only ever added.",
    "manifest": "weldwatch.bundle/1: manifest.json of a pipeline bundle. Unknown fields are refused.",
}
KINDS: dict[str, type[Any]] = {"result": Result, "shadow": Shadowed, "manifest": Manifest, "health": HealthReport}


def schemas() -> dict[str, str]:
    """File name to text."""
    return {
        f"{name}.schema.json": json.dumps(schema(name, kind), indent=2, ensure_ascii=False) + "\n"
        for name, kind in KINDS.items()
    }


def schema(name: str, kind: type[Any]) -> dict[str, Any]:
    """Draft 2020-12. Every field of a result is required: unknown is null, never missing."""
    (root,), definitions = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    definitions = dict(definitions)
    body = definitions.pop(kind.__name__) if "$ref" in root else root
    for part in [body, *definitions.values()]:
        part.pop("title", None)
        if name != "manifest" and "properties" in part:
            part["required"] = list(part["properties"])
            for value in part["properties"].values():
                value.pop("default", None)
    if name in ("result", "shadow"):
        body["properties"]["schema"] = {"const": f"weldwatch.{name}/1"}
        body["properties"]["probability"] = {
            "anyOf": [{"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}}, {"type": "null"}]
        }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": TITLES[name],
        **body,
        "$defs": definitions,
    }


if __name__ == "__main__":
    for file, text in schemas().items():
        (HERE / file).write_text(text, encoding="utf-8")
        sys.stdout.write(f"{file}\n")
