from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import jsonschema

from agent.bundle.archive import Archive
from agent.model.store import resolve

SCHEMAS = Path(__file__).parents[1] / "config" / "schemas"


def test_the_schemas_on_disk_are_what_the_types_say() -> None:
    spec = importlib.util.spec_from_file_location("generate", SCHEMAS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, text in module.schemas().items():
        assert (SCHEMAS / name).read_text(encoding="utf-8") == text, f"{name} is old: run make schemas"


def test_every_schema_is_a_schema() -> None:
    for path in SCHEMAS.glob("*.schema.json"):
        jsonschema.Draft202012Validator.check_schema(json.loads(path.read_text()))


def test_the_shipped_bundles_manifest_meets_its_schema() -> None:
    with Archive(resolve("weld-demo")) as archive:
        manifest = json.loads(archive.manifest_bytes)
    jsonschema.validate(manifest, json.loads((SCHEMAS / "manifest.schema.json").read_text()))
    assert manifest["training"]["synthetic"] is True
    assert "must not judge real welds" in manifest["notice"]
    assert manifest["training"]["weights"]["licence"]
