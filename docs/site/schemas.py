"""The reference of what goes over the wire, from the JSON Schemas in config/schemas."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import links
from tables import code, table

FILES = sorted((links.ROOT / "config" / "schemas").glob("*.schema.json"))
_HEAD = """\
# Schemas

JSON Schemas (draft 2020-12) of what a station sends and of what a bundle says of itself. Fields of a result are only
ever added. What they mean is told in [Results](../results.md), [Topics](../topics.md) and [The bundle](../bundle.md).

"""


def page() -> str:
    """Each schema: where it is, and its fields."""
    return _HEAD + "".join(_section(path) for path in FILES)


def _section(path: Path) -> str:
    schema = json.loads(path.read_text(encoding="utf-8"))
    rows = [[code(name), kind, told] for name, kind, told in _fields(schema, schema.get("$defs", {}), "")]
    name = path.name.removesuffix(".schema.json")
    where = os.path.relpath(links.uri_of(path), "reference")
    about = schema.get("title", "")
    return f"## {name}\n\n{about} [{path.name}]({where}){{ download }}\n\n{table(['field', 'type', 'notes'], rows)}\n"


def _fields(schema: dict[str, Any], known: dict[str, Any], path: str) -> Iterator[tuple[str, str, str]]:
    """Path, type and notes of each field, those of objects inside after their own."""
    for name, value in schema.get("properties", {}).items():
        told = [value["description"]] if "description" in value else []
        told += [] if name in schema.get("required", ()) else ["may be missing"]
        yield f"{path}{name}", _type(value, known), "; ".join(told)
        for inner, a_list in _objects(value, known):
            yield from _fields(inner, known, f"{path}{name}{'[]' if a_list else ''}.")


def _parts(value: dict[str, Any], known: dict[str, Any]) -> list[dict[str, Any]]:
    """The schemas that a value may meet, references followed."""
    if "$ref" in value:
        return _parts(known[value["$ref"].rpartition("/")[2]], known)
    return [part for one in value["anyOf"] for part in _parts(one, known)] if "anyOf" in value else [value]


def _objects(
    value: dict[str, Any], known: dict[str, Any], a_list: bool = False
) -> Iterator[tuple[dict[str, Any], bool]]:
    for part in _parts(value, known):
        if "properties" in part:
            yield part, a_list
        elif isinstance(part.get("items"), dict):
            yield from _objects(part["items"], known, True)


def _type(value: dict[str, Any], known: dict[str, Any]) -> str:
    told = []
    for part in _parts(value, known):
        if "const" in part:
            told.append(code(json.dumps(part["const"])))
        elif "enum" in part:
            told.append(", ".join(code(json.dumps(one)) for one in part["enum"]))
        elif isinstance(part.get("items"), dict):
            told.append(f"list of {_type(part['items'], known)}")
        else:
            kinds = part.get("type", "any")
            told.append(" or ".join([kinds] if isinstance(kinds, str) else kinds))
            low, high = part.get("minimum"), part.get("maximum")
            told[-1] += (
                f", {low} to {high}" if None not in (low, high) else f", at least {low}" if low is not None else ""
            )
    return " or ".join(dict.fromkeys(told))
