"""Strict YAML: from text to frozen, typed sections, or one line that says where and why not.

Used for the agent's configuration and for training's recipes. Invariants: unknown keys, duplicate keys and keys that
are not text are errors; only plain data is constructed, whatever tags the text carries.
"""

from __future__ import annotations

import difflib
import re
from typing import Any, TypeVar

import msgspec

from agent.errors import ConfigError

T = TypeVar("T")


def convert(value: Any, kind: type[T], file: str) -> T:
    """Turn plain data into a typed section, or raise ``ConfigError`` with the key path."""
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        raise _explain(str(error), value, kind, file) from None


def load_yaml(text: str, file: str) -> Any:
    """YAML to plain data; duplicate keys, which YAML loaders swallow, are errors."""
    import yaml

    class Strict(yaml.SafeLoader):
        pass

    def mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
        seen: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = loader.construct_object(key_node, deep=True)
            where = f"line {key_node.start_mark.line + 1}"
            if not isinstance(key, str):
                raise ConfigError(file, where, f"the key {key!r} is not text", "quote it")
            if key in seen:
                raise ConfigError(file, where, f"the key {key!r} stands here a second time", "keep one of them")
            seen[key] = loader.construct_object(value_node, deep=True)
        return seen

    Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    try:
        return yaml.load(text, Loader=Strict)  # noqa: S506  # a SafeLoader, only stricter
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        found = f"not YAML: {error.problem or error.context}"
        raise ConfigError(file, where, found, "check indent and quotes") from None
    except (yaml.YAMLError, RecursionError) as error:
        found = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(file, "", f"not YAML: {found}", "save the file as plain UTF-8 text") from None


def _explain(message: str, value: Any, kind: type[Any], file: str) -> ConfigError:
    """Turn msgspec's message into key path, what was found and what is allowed."""
    text, _, path = message.partition(" - at `")
    key = path.rstrip("`").removeprefix("$").removeprefix(".").replace("...", "")
    unknown = re.search(r"unknown field `(.*)`", text)
    if unknown:
        allowed = _fields_at(kind, key, value)
        near = difflib.get_close_matches(unknown[1], allowed, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"allowed: {', '.join(allowed)}"
        return ConfigError(file, f"{key}.{unknown[1]}".lstrip("."), "unknown key", hint)
    missing = re.search(r"missing required field `(.*)`", text)
    if missing:
        return ConfigError(file, f"{key}.{missing[1]}".lstrip("."), "missing", "this key is required")
    found = _value_at(value, _steps(key))
    if isinstance(found, (dict, list)):
        shown = "found a mapping" if isinstance(found, dict) else "found a list"
    else:
        shown = f"found {found!r}"
    return ConfigError(file, key or "top level", shown, _allowed_at(kind, key, value) or _plain_words(text))


def _plain_words(text: str) -> str:
    """msgspec's expectation in words that need no Python."""
    words = {"float": "a number", "int": "a whole number", "str": "text", "bool": "true or false", "array": "a list",
             "object": "a mapping", "null": "null"}  # fmt: skip
    text = re.sub(
        r"`([a-z]+)( \| ([a-z]+))*`", lambda m: " or ".join(words.get(w, w) for w in m[0][1:-1].split(" | ")), text
    )
    return (text[:1].lower() + text[1:]).partition(", got ")[0]


def _allowed_at(kind: Any, key: str, value: Any) -> str:
    """What the type at ``key`` says of itself: the values of a choice, or the description of a text."""
    info = _type_at(kind, key, value)
    for part in info.types if isinstance(info, msgspec.inspect.UnionType) else (info,):
        if isinstance(part, msgspec.inspect.Metadata):
            return str((part.extra_json_schema or {}).get("description", ""))
        if isinstance(part, msgspec.inspect.LiteralType):
            return f"allowed: {', '.join(map(str, part.values))}"
    return ""


def _steps(key: str) -> list[str | int]:
    return [int(part[1:-1]) if part.startswith("[") else part for part in re.findall(r"\[\d+\]|[^.\[\]]+", key)]


def _value_at(value: Any, steps: list[str | int]) -> Any:
    for step in steps:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _type_at(kind: Any, key: str, value: Any) -> Any:
    """The type of the value at ``key``; ``value`` (at the top) tells which section of several it is."""
    info: Any = msgspec.inspect.type_info(kind)
    for number, step in enumerate(steps := _steps(key)):
        choices = _tagged(info)
        if choices and step == choices[0].tag_field:
            return msgspec.inspect.LiteralType(tuple(choice.tag for choice in choices))
        info = _inside(info, _value_at(value, steps[:number]))
        if isinstance(step, int) and isinstance(info, (msgspec.inspect.ListType, msgspec.inspect.VarTupleType)):
            info = info.item_type
        elif isinstance(info, msgspec.inspect.StructType):
            info = next((field.type for field in info.fields if field.encode_name == step), info)
    return info


def _fields_at(kind: Any, key: str, value: Any) -> list[str]:
    """Names allowed in the section at ``key``."""
    info = _inside(_type_at(kind, key, value), _value_at(value, _steps(key)))
    if not isinstance(info, msgspec.inspect.StructType):
        return []
    return ([info.tag_field] if info.tag_field else []) + [field.encode_name for field in info.fields]


def _tagged(info: Any) -> list[msgspec.inspect.StructType]:
    """The sections among which a tag decides."""
    parts = info.types if isinstance(info, msgspec.inspect.UnionType) else (info,)
    return [part for part in parts if isinstance(part, msgspec.inspect.StructType) and part.tag_field]


def _inside(info: Any, value: Any) -> Any:
    """The struct or list inside an optional or annotated type, or the one of several that ``value`` is tagged as."""
    if isinstance(info, msgspec.inspect.Metadata):
        info = info.type
    if isinstance(info, msgspec.inspect.UnionType):
        for choice in _tagged(info):
            if isinstance(value, dict) and value.get(choice.tag_field) == choice.tag:
                return choice
        inner = (msgspec.inspect.StructType, msgspec.inspect.ListType)
        return next((one for one in info.types if isinstance(one, inner)), info)
    return info
