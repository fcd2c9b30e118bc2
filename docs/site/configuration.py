"""The reference of the configuration, from the types that the agent itself reads it with.

Keys, types, limits and defaults come from ``agent.config``; what a key means from the tables of docs/configuration.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import links
import msgspec
from msgspec import inspect
from tables import cells, code, table

from agent.config import AgentConfig

EXAMPLE = links.ROOT / "config" / "agent.example.yaml"
_HEAD = """\
# Every key

Made from the types that the agent reads its configuration with, so this is what it takes; how to use it is told in
[Configuration](../configuration.md). Unknown keys are errors.

[JSON Schema](configuration.schema.json){ download } of the file, for editors: with the YAML extension of VS Code put
`# yaml-language-server: $schema=configuration.schema.json` into its first line.

"""


def page() -> str:
    """All sections, each a table."""
    info = inspect.type_info(AgentConfig)
    meanings = {
        row[0].strip("`"): row[3]
        for row in cells((links.DOCS / "configuration.md").read_text(encoding="utf-8"))
        if len(row) == 4
    }
    parts = [_HEAD]
    for path, title, section in _sections(info, ""):
        parts.append(f"## {title}\n\n{' '.join((section.cls.__doc__ or '').split())}\n\n")
        rows = []
        for field in section.fields:
            key = f"{path}{field.encode_name}"
            meaning = links.pointed(
                meanings.get(key, ""), links.DOCS / "configuration.md", "reference/configuration.md"
            )
            meaning = re.sub(r"\]\(#", "](../configuration.md#", meaning)
            rows.append([code(field.encode_name), _type(field.type), _default(field), meaning])
        if section.tag_field:
            rows.insert(0, [code(section.tag_field), code(section.tag), "required", "which kind of source this is"])
        parts.append(table(["key", "takes", "default", "meaning"], rows) + "\n")
    return "".join(parts)


def schema() -> str:
    """JSON Schema of the file. ``\\Z`` is Python's; elsewhere the end of a text is ``$``."""
    text = json.dumps(msgspec.json.schema(AgentConfig), indent=2, ensure_ascii=False)
    return text.replace(r"\\Z", "$") + "\n"


def example() -> str:
    """The example file as a page."""
    text = EXAMPLE.read_text(encoding="utf-8").rstrip()
    return f'# Example file\n\nEvery key, with its default in a comment.\n\n```yaml title="agent.yaml"\n{text}\n```\n'


def _sections(info: Any, path: str) -> Iterator[tuple[str, str, inspect.StructType]]:
    """Path of its keys, heading, and type of each section, from the top down."""
    yield path, (path.rstrip(".") or "Top level"), info
    for field in info.fields:
        for inner, a_list in _inside(field.type):
            below = f"{path}{field.encode_name}{'[]' if a_list else ''}."
            for key, title, section in _sections(inner, below):
                yield key, f"{title}: {section.tag}" if section.tag_field else title, section


def _inside(kind: Any, a_list: bool = False) -> Iterator[tuple[inspect.StructType, bool]]:
    if isinstance(kind, inspect.Metadata):
        yield from _inside(kind.type, a_list)
    elif isinstance(kind, inspect.StructType):
        yield kind, a_list
    elif isinstance(kind, inspect.UnionType):
        for one in kind.types:
            yield from _inside(one, a_list)
    elif isinstance(kind, (inspect.ListType, inspect.VarTupleType)):
        yield from _inside(kind.item_type, True)


def _type(kind: Any) -> str:
    """In words that need no Python."""
    if isinstance(kind, inspect.Metadata):
        told = (kind.extra_json_schema or {}).get("description")
        return str(told) if told else _type(kind.type)
    if isinstance(kind, inspect.UnionType):
        return " or ".join(dict.fromkeys(_type(one) for one in kind.types))
    if isinstance(kind, inspect.LiteralType):
        return ", ".join(code(value) for value in kind.values)
    if isinstance(kind, (inspect.ListType, inspect.VarTupleType)):
        return f"list of {_type(kind.item_type)}{_limits(kind)}"
    if isinstance(kind, inspect.TupleType):
        return f"list of {len(kind.item_types)}: {', '.join(_type(one) for one in kind.item_types)}"
    if isinstance(kind, inspect.StructType):
        return f"section {code(kind.tag)}" if kind.tag_field else "section"
    names = {inspect.StrType: "text", inspect.IntType: "whole number", inspect.FloatType: "number",
             inspect.BoolType: "`true`, `false`", inspect.NoneType: "`null`", inspect.DictType: "mapping"}  # fmt: skip
    return names.get(type(kind), type(kind).__name__) + _limits(kind)


def _limits(kind: Any) -> str:
    words = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}",
             "min_length": "length at least {}", "max_length": "length at most {}"}  # fmt: skip
    told = [text.format(getattr(kind, name)) for name, text in words.items() if getattr(kind, name, None) is not None]
    return f", {', '.join(told)}" if told else ""


def _default(field: inspect.Field) -> str:
    if field.required:
        return "required"
    value = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    if isinstance(value, msgspec.Struct):
        return "see its section"
    return code(value if isinstance(value, str) else json.dumps(msgspec.to_builtins(value)))
