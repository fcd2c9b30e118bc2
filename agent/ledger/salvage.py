"""Results out of a damaged ledger: page by page, without SQLite, which gives up where a page is broken.

    <file>        page 1 │ page 2 │ …                                        as large as the header says
    <file>-wal    32 bytes │ 24 bytes, page │ 24 bytes, page │ …       what is newer than the file

https://www.sqlite.org/fileformat2.html, sections 1.3 (header), 1.5 (free pages), 1.6 (b-tree pages), 2.1 (records) and
4.1 (WAL).

Invariants
- The files are only read, and nothing in them is believed: a number that leads outside its page, a record of another
  shape, a body that is no result or another one than its row says, each costs its own row and no other.
- A row that is given out was in the ledger, but for damage inside a body that leaves it a result; nothing shows that.
- An entry of an index without its row is a result that is known to be lost. What only the numbering misses was removed
  by retention, or lost with its entries: that cannot be told.
- Memory: some numbers a result.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import msgspec

from agent.errors import UsageError

_TABLE_LEAF, _INDEX_LEAF, _INDEX_INNER = 0x0D, 0x0A, 0x02
_FILE_HEAD, _WAL_HEAD, _FRAME_HEAD = 100, 32, 24
_WAL_MAGIC = (0x377F0682, 0x377F0683)
_USUAL = 4096  #: bytes of a page
_LARGEST = 1 << 20  #: bytes of a row; results are some thousand
_BYTES_OF = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)  #: of a value, by its type
_TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")
_Value = int | str | bytes | None
_ASTRAY = (IndexError, ValueError, struct.error, msgspec.DecodeError)  #: where a number that is wrong leads


@dataclass
class Salvage:
    """What a damaged ledger holds."""

    places: dict[int, int] = field(default_factory=dict)  #: sequence → page × 65536 + offset of its row
    listed: set[int] = field(default_factory=set)  #: sequences that an index has
    cursors: dict[str, int] = field(default_factory=dict)  #: sink → delivered up to, as last written

    @property
    def lost(self) -> int:
        """Results that were there for certain, and cannot be read."""
        return len(self.listed - self.places.keys())

    @property
    def unaccounted(self) -> int:
        """Numbers between the first and the last of which there is no trace: removed earlier, or lost as well."""
        known = self.listed | self.places.keys()
        return max(known) - min(known) + 1 - len(known) if known else 0


class DamagedLedger:
    """``with DamagedLedger(file) as ledger``: ``look``, then ``bodies``. ``UsageError``: the file cannot be read."""

    def __init__(self, path: Path) -> None:
        wal = path.with_name(path.name + "-wal")
        if not path.is_file():
            raise UsageError(f"{path}: no such file; a ledger that was set aside is state/ledger-damaged-….sqlite3")
        with ExitStack() as opened:
            try:
                self._file = opened.enter_context(path.open("rb"))
                self._wal = opened.enter_context(wal.open("rb")) if wal.is_file() else None
            except OSError as error:
                raise UsageError(f"{error.filename}: {error.strerror}; it must be readable for this user") from None
            head = self._file.read(_FILE_HEAD)
            self._size = _page_size(head, self._wal)
            reserved = head[20] if len(head) == _FILE_HEAD and head[20] <= 32 else 0
            self._usable = self._size - reserved
            self._newer = _frames(self._wal, self._size) if self._wal is not None else {}
            self._last = max([path.stat().st_size // self._size, *self._newer])
            self._opened = opened.pop_all()

    def __enter__(self) -> DamagedLedger:
        return self

    def __exit__(self, *exc: object) -> None:
        self._opened.close()

    def look(self) -> Salvage:
        """Go through all pages that are in use."""
        found, free = Salvage(), self._free()
        for number in range(1, self._last + 1):
            page = b"" if number in free else self._page(number)
            kind = page[_start(number)] if len(page) == self._size else 0
            if kind in (_TABLE_LEAF, _INDEX_LEAF, _INDEX_INNER):
                for at in _cells(page, _start(number), inner=kind == _INDEX_INNER):
                    try:
                        self._take(number, page, at, found, table=kind == _TABLE_LEAF)
                    except _ASTRAY:
                        continue
        return found

    def bodies(self, found: Salvage) -> Iterator[bytes]:
        """The results that can be read, byte by byte as they were stored, in the order of their sequence."""
        for sequence in sorted(found.places):
            number, at = divmod(found.places[sequence], 1 << 16)
            try:
                body = self._record(self._page(number), at, table=True)[1][-1]
                assert isinstance(body, bytes)
            except _ASTRAY:  # the disk gave it once, and not again
                del found.places[sequence]
                found.listed.add(sequence)
                continue
            yield body

    # -- what a cell holds -------------------------------------------------------------------------------------------

    def _take(self, number: int, page: bytes, at: int, found: Salvage, *, table: bool) -> None:
        rowid, values = self._record(page, at, table=table)
        if table:
            sequence = _sequence(rowid, values)
            if sequence is not None and (sequence not in found.places or len(values) == 7):
                found.places[sequence] = number << 16 | at
            return
        match values:
            case [str(text), int(sequence)] if _TIME.fullmatch(text) and sequence > 0:  # results_created
                found.listed.add(sequence)
            case [str(sink), int(cursor), int(active)] if active in (0, 1) and cursor >= 0:  # sinks
                found.cursors[sink] = cursor

    def _record(self, page: bytes, at: int, *, table: bool) -> tuple[int, list[_Value]]:
        """The row id (0 in an index) and the values of the cell at this offset."""
        size, at = _varint(page, at)
        rowid, at = _varint(page, at) if table else (0, at)
        if size > _LARGEST:
            raise ValueError("a row larger than any")
        payload = self._payload(page, at, size, table=table)
        length, cursor = _varint(payload, 0)
        kinds, values = list[int](), list[_Value]()
        while cursor < length:
            kind, cursor = _varint(payload, cursor)
            kinds.append(kind)
        for kind in kinds:
            width = (kind - 12) // 2 if kind >= 12 else _BYTES_OF[kind]
            raw = payload[cursor : cursor + width]
            if len(raw) != width:
                raise ValueError("a value beyond its row")
            cursor += width
            values.append(_value(kind, raw))
        return rowid, values

    def _payload(self, page: bytes, at: int, size: int, *, table: bool) -> bytes:
        """A row whole, also where it goes on on other pages."""
        most = self._usable - 35 if table else (self._usable - 12) * 64 // 255 - 23
        if size <= most:
            payload = page[at : min(at + size, self._usable)]
        else:
            least = (self._usable - 12) * 32 // 255 - 23
            here = least + (size - least) % (self._usable - 4)
            here = here if here <= most else least
            parts, missing = [page[at : at + here]], size - here
            (next_page,) = struct.unpack_from(">I", page, at + here)
            while missing > 0:  # each page brings some, or ends it
                further = self._page(next_page)
                (next_page,) = struct.unpack_from(">I", further)
                parts.append(further[4 : min(4 + missing, self._usable)])
                missing -= len(parts[-1])
            payload = b"".join(parts)
        if len(payload) != size:
            raise ValueError("a row beyond its page")
        return payload

    # -- pages -------------------------------------------------------------------------------------------------------

    def _page(self, number: int) -> bytes:
        """As it was written last. ``ValueError`` where there is none, what can be read of one that is cut."""
        if not 1 <= number <= self._last:
            raise ValueError("a page beyond the file")
        newer = self._newer.get(number)
        file, at = (self._wal, newer) if newer is not None else (self._file, (number - 1) * self._size)
        assert file is not None
        try:
            file.seek(at)
            return file.read(self._size)
        except OSError:
            return b""  # a sector that the disk does not give any more

    def _free(self) -> set[int]:
        """Pages that hold what was removed; as far as their list is sound."""
        free = set[int]()
        try:
            (trunk,) = struct.unpack_from(">I", self._page(1), 32)
            while trunk and trunk not in free:
                page = self._page(trunk)
                free.add(trunk)
                trunk, count = struct.unpack_from(">II", page)
                free.update(struct.unpack_from(f">{count}I", page, 8) if count <= self._size // 4 - 2 else ())
        except _ASTRAY:
            pass  # then some rows that were removed may be met again: they were results as well
        return free


def _start(number: int) -> int:
    """Where the b-tree begins on a page."""
    return _FILE_HEAD if number == 1 else 0


def _cells(page: bytes, start: int, *, inner: bool) -> Iterator[int]:
    """Where the records of a page begin."""
    (count,) = struct.unpack_from(">H", page, start + 3)
    first = start + (12 if inner else 8)
    for at in range(first, min(first + 2 * count, len(page) - 1), 2):
        yield struct.unpack_from(">H", page, at)[0] + (4 if inner else 0)


def _sequence(rowid: int, values: list[_Value]) -> int | None:
    """Whose row it is: one of ``results``, or of ``dead``, which holds a body as well; None for any other."""
    match values:
        case [None, str(result_id), str(created_at), str(), _, str(), bytes(body)]:
            sequence, made = rowid, str(created_at)
        case [str(), int(sequence), str(result_id), str(), str(), bytes(body)]:
            made = ""
        case _:
            return None
    result = msgspec.json.decode(body, type=dict)  # all of it: what is only passed over is not looked at
    told = [result.get(field) for field in ("sequence", "result_id", "created_at")]
    same = told == [sequence, result_id, made or told[2]]
    return sequence if same and sequence > 0 and b"\n" not in body else None  # a line of the output is one result


def _value(kind: int, raw: bytes) -> _Value:
    if kind >= 12:
        return raw.decode("utf-8") if kind % 2 else raw
    if kind in (8, 9):
        return kind - 8
    return None if kind == 0 else int.from_bytes(raw, "big", signed=True)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of 1 to 9 bytes, and where it ends."""
    value = 0
    for index in range(8):
        value = value << 7 | data[at + index] & 0x7F
        if data[at + index] < 0x80:
            return value, at + index + 1
    return value << 8 | data[at + 8], at + 9


def _page_size(head: bytes, wal: BinaryIO | None) -> int:
    """Of the file's header, of that of the WAL, or what is usual."""
    candidates = [int.from_bytes(head[16:18], "big") if head.startswith(b"SQLite format 3\0") else 0]
    if wal is not None:
        wal.seek(0)
        candidates.append(int.from_bytes(wal.read(12)[8:12], "big"))
    sizes = {1: 65536, **{1 << power: 1 << power for power in range(9, 17)}}
    return next((sizes[one] for one in candidates if one in sizes), _USUAL)


def _frames(wal: BinaryIO, size: int) -> dict[int, int]:
    """Page number → where its newest version begins, of all transactions that were committed."""
    committed, running = dict[int, int](), dict[int, int]()
    wal.seek(0)
    head = wal.read(_WAL_HEAD)
    if len(head) < _WAL_HEAD or int.from_bytes(head[:4], "big") not in _WAL_MAGIC:
        return committed
    at = _WAL_HEAD
    while len(frame := wal.read(_FRAME_HEAD)) == _FRAME_HEAD and frame[8:16] == head[16:24]:
        number, pages = struct.unpack_from(">II", frame)
        running[number] = at + _FRAME_HEAD
        if pages:
            committed.update(running)
            running.clear()
        at += _FRAME_HEAD + size
        wal.seek(at)
    return committed
