"""Enough of SQLite's file format to read one small table out of a page that was written to the WAL.

https://www.sqlite.org/fileformat2.html, sections 1.6 (b-tree pages), 2.1 (records) and 4.1 (WAL frames).
"""

from __future__ import annotations

INDEX_LEAF = 0x0A


def rows(page: bytes) -> list[list[str | int | None]]:
    """The rows of a table WITHOUT ROWID, of text and integers, that fits one page."""
    assert page[0] == INDEX_LEAF
    count = int.from_bytes(page[3:5], "big")
    starts = [int.from_bytes(page[at : at + 2], "big") for at in range(8, 8 + 2 * count, 2)]
    return [_record(page, _varint(page, start)[1]) for start in starts]


def _record(page: bytes, at: int) -> list[str | int | None]:
    size, cursor = _varint(page, at)
    kinds, values = [], list[str | int | None]()
    while cursor < at + size:
        kind, cursor = _varint(page, cursor)
        kinds.append(kind)
    for kind in kinds:
        width = (kind - 13) // 2 if kind >= 13 else (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)[kind]
        raw = page[cursor : cursor + width]
        cursor += width
        number = kind - 8 if kind in (8, 9) else int.from_bytes(raw, "big", signed=True)
        values.append(raw.decode() if kind >= 13 else None if kind == 0 else number)
    return values


def _varint(page: bytes, at: int) -> tuple[int, int]:
    """The number, and where it ends."""
    value = 0
    while True:
        value = value << 7 | page[at] & 0x7F
        at += 1
        if not page[at - 1] & 0x80:
            return value, at
