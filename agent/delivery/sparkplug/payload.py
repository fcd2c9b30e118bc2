"""Sparkplug B payloads as bytes: written whole, and of what comes in, only what this station obeys.

    Payload   1 timestamp (ms since 1970, UTC) · 2 metrics, repeated · 3 seq
    Metric    1 name · 3 timestamp · 4 datatype · 5 is_historical · 7 is_null · value, one of:
              10 int (32 bit) · 11 long (64 bit) · 13 double · 14 boolean · 15 string

Protocol Buffers: each field is a varint (number << 3 | kind), then a varint (kind 0), eight bytes (1), a length and so
many bytes (2), or four bytes (5). https://sparkplug.eclipse.org/specification/, 6.4 names the fields.

Invariants: whole numbers are signed types, as one widespread decoder reads unsigned 32 bit as null; a value that is not
known is null and says so, never missing. What comes in is hostile until it is read.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache

Value = int | float | str | bool | None

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
_NAME, _BOOLEAN = 1, 14


class Type(enum.IntEnum):
    """Sparkplug's number of a data type."""

    INT32 = 3
    INT64 = 4
    DOUBLE = 10
    BOOLEAN = 11
    STRING = 12
    DATE_TIME = 13  #: milliseconds since 1970, UTC


def metric(
    name: str, kind: Type, value: Value, timestamp_ms: int, *, declare: bool = False, historical: bool = False
) -> bytes:
    """One metric. ``declare`` adds its type, which births must and data should not."""
    parts = [_name(name), _number(3, timestamp_ms)]
    if declare:
        parts.append(_number(4, kind))
    if historical:
        parts.append(_number(5, 1))
    parts.append(_number(7, 1) if value is None else _value(kind, value))
    return b"".join(parts)


def payload(metrics: Iterable[bytes], timestamp_ms: int, seq: int | None) -> bytes:
    """A whole message; ``seq`` is None in a death certificate only."""
    parts = [_number(1, timestamp_ms), *(_delimited(2, one) for one in metrics)]
    if seq is not None:
        parts.append(_number(3, seq))
    return b"".join(parts)


def switched_on(message: bytes) -> set[str]:
    """The names of metrics in a command that are the Boolean ``true``. ``ValueError`` for what is no payload."""
    names = set()
    for number, content in _fields(message):
        if number == 2 and isinstance(content, bytes):
            fields = dict(_fields(content))
            name = fields.get(_NAME)
            if fields.get(_BOOLEAN) == 1 and isinstance(name, bytes):
                names.add(name.decode("utf-8", "replace"))
    return names


def _value(kind: Type, value: int | float | str | bool) -> bytes:
    if kind is Type.STRING:
        return _text(15, str(value))
    if kind is Type.DOUBLE:
        return _key(13, _EIGHT) + struct.pack("<d", value)
    if kind is Type.BOOLEAN:
        return _number(14, int(value))
    bits = 32 if kind is Type.INT32 else 64
    return _number(10 if bits == 32 else 11, int(value) & (1 << bits) - 1)  # negative: two's complement


@lru_cache(maxsize=256)  # a few dozen names, with every result
def _name(name: str) -> bytes:
    return _text(_NAME, name)


def _text(number: int, text: str) -> bytes:
    return _delimited(number, text.encode("utf-8", "replace"))


def _delimited(number: int, content: bytes) -> bytes:
    return _key(number, _BYTES) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _key(number, _VARINT) + _varint(value)


@cache
def _key(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and content of each field. ``ValueError`` where the bytes are cut off or make no sense."""
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _read_varint(data, at)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            length, at = _read_varint(data, at)
        elif kind in (_EIGHT, _FOUR):
            length = 8 if kind == _EIGHT else 4
        else:
            raise ValueError(f"no such kind of field: {kind}")
        if at + length > len(data):
            raise ValueError("cut off")
        yield key >> 3, data[at : at + length]
        at += length


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number without an end")
