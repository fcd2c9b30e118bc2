"""What an image belongs to and when it was taken, from its name, its sidecar, its own EXIF and the current job.

Invariants: a name or sidecar that says nothing usable costs the ids, never the frame; an impossible time is unknown.
The time of capture comes from the sidecar, EXIF, the name, or the modification time, in this order.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any

import msgspec

from agent.frame import Identity, readable_name

MAX_SIDECAR = 64 * 1024  #: bytes
MAX_ID = 200  #: characters of an id

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_IDS = tuple(item.name for item in fields(Identity))

_DIGITS = r"(\d{2})(\d{2})(\d{2})(?:[.,_-]?(\d{6}|\d{3}))?"
_PARTED = r"(\d{2})[-:.](\d{2})[-:.](\d{2})(?:[.,_-](\d{6}|\d{3}))?"
#: 20261122T102205123Z, 20261122-102205, 2026-11-22_10-22-05, 2026-11-22T10:22:05.123Z
_STAMPS = tuple(
    re.compile(rf"(?<![0-9A-Za-z]){date}[T_-]{time}(Z|[+-]\d{{2}}:?\d{{2}})?(?![0-9])")
    for date, time in ((r"(20\d{2})(\d{2})(\d{2})", _DIGITS), (r"(20\d{2})-(\d{2})-(\d{2})", f"(?:{_PARTED})"))
)
_UNIX = re.compile(r"(\d{10})(\d{3})?")


class SidecarError(Exception):
    """A sidecar that cannot be used; the text says why."""


@dataclass(frozen=True)
class Named:
    """What a file name tells."""

    identity: Identity = field(default_factory=Identity)
    unknown: bool = False  #: a pattern is configured and did not match
    taken_at: datetime | None = None


@dataclass(frozen=True)
class Sidecar:
    """What the JSON file beside an image tells."""

    ids: dict[str, str]
    taken_at: datetime | None = None


@dataclass(frozen=True)
class Told:
    """All that was told of an image, by whatever told it."""

    named: Named = field(default_factory=Named)
    sidecar: Sidecar | None = None
    job: Identity = field(default_factory=Identity)

    def identity(self) -> tuple[Identity, bool]:
        """Each id from the sidecar, the name or the current job, in this order; and whether all of it is unknown.

        Unknown, where the name should have told and did not, is an image of which nothing else told an id either.
        """
        beside = self.sidecar.ids if self.sidecar is not None else {}
        ids = {key: beside.get(key) or getattr(self.named.identity, key) or getattr(self.job, key) for key in _IDS}
        return Identity(**ids), self.named.unknown and not any(ids.values())


class Names:
    """Reads names by the configured pattern; times without a zone are the station's."""

    def __init__(self, pattern: str | None, zone: tzinfo) -> None:
        self._pattern = re.compile(pattern) if pattern is not None else None
        self._zone = zone

    def read(self, name: bytes) -> Named:
        """Read a file's base name."""
        stem = readable_name(stem_of(name))
        if self._pattern is None:
            return Named(taken_at=self._stamp_in(stem))
        match = self._pattern.fullmatch(stem)
        if match is None:
            return Named(unknown=True, taken_at=self._stamp_in(stem))
        groups = {key: value or None for key, value in match.groupdict().items()}
        written = groups.pop("captured_at", None)
        taken_at = self.time_of(written) if written else None
        return Named(Identity(**groups), False, taken_at or self._stamp_in(stem))

    def _stamp_in(self, stem: str) -> datetime | None:
        """The one time that a stem holds; two different ones are none."""
        found = {moment for stamp in _STAMPS for match in stamp.finditer(stem) if (moment := self._moment(match))}
        return found.pop() if len(found) == 1 else None

    def time_of(self, text: str) -> datetime | None:
        """A time that was written as one: ISO 8601, its compact forms, or Unix seconds or milliseconds."""
        text = text.strip().replace(" ", "T")
        unix = _UNIX.fullmatch(text)
        if unix:
            return _EPOCH + timedelta(seconds=int(unix[1]), milliseconds=int(unix[2] or 0))
        for stamp in _STAMPS:
            match = stamp.fullmatch(text)
            if match:
                return self._moment(match)
        return None

    def _moment(self, match: re.Match[str]) -> datetime | None:
        year, month, day, hour, minute, second, fraction, zone = match.groups()
        micro = int((fraction or "0").ljust(6, "0"))
        try:
            moment = datetime(int(year), int(month), int(day), int(hour), int(minute), int(second), micro)
            return moment.replace(tzinfo=_zone(zone) if zone else self._zone).astimezone(timezone.utc)
        except (ValueError, OverflowError):
            return None

    def captured_at(self, exif: datetime | None, told: Told, mtime_ns: int, now: datetime) -> tuple[datetime, str]:
        """When the image was taken (aware, UTC), and what says so."""
        if told.sidecar is not None and told.sidecar.taken_at is not None:
            return told.sidecar.taken_at, "sidecar"
        if exif is not None and exif.year >= 2000:  # a camera whose clock was never set says 1970 or 1980
            aware = exif if exif.tzinfo else exif.replace(tzinfo=self._zone)
            try:
                return aware.astimezone(timezone.utc), "exif"
            except (OverflowError, ValueError):
                pass  # a time at the edge of the calendar is nonsense, which is unknown
        if told.named.taken_at is not None:
            return told.named.taken_at, "name"
        try:
            return _EPOCH + timedelta(microseconds=mtime_ns // 1000), "mtime"
        except OverflowError:
            return now, "mtime"

    def sidecar(self, data: bytes) -> Sidecar:
        """Read a sidecar's bytes; ``SidecarError`` says what is wrong with it."""
        try:
            content: Any = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise SidecarError(f"not JSON: {error}") from None
        if not isinstance(content, dict):
            raise SidecarError("not a JSON object")
        ids = {}
        for key in _IDS:
            value = content.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (str, int)) or not 0 < len(str(value)) <= MAX_ID:
                raise SidecarError(f"{key} must be text of 1 to {MAX_ID} characters or a whole number")
            ids[key] = str(value)
        written = content.get("captured_at")
        if written is None:
            return Sidecar(ids)
        taken_at = self.time_of(written) if isinstance(written, str) else None
        if taken_at is None:
            raise SidecarError("captured_at must be a time such as 2026-11-22T10:22:05.123Z")
        return Sidecar(ids, taken_at)


def arrival(facts: os.stat_result, now: datetime) -> datetime:
    """When a file came to be as it is (aware, UTC), on the station's clock, as far as that can be told.

    That is its change time: of all times only this one is the kernel's own. The others are as often the camera's, for
    FTP, SMB and copies carry them over. A change time from the future (a clock set back, a server's clock) is now.
    """
    return min(_EPOCH + timedelta(microseconds=facts.st_ctime_ns // 1000), now)


def stem_of(name: bytes) -> bytes:
    """A base name without its last suffix."""
    stem, dot, _ = name.rpartition(b".")
    return stem if dot and stem else name


def sidecar_names(name: bytes) -> tuple[bytes, bytes]:
    """Where the sidecar of an image may be, in the order of looking: ``a.png.json``, ``a.json``."""
    return name + b".json", stem_of(name) + b".json"


def _zone(text: str) -> tzinfo:
    if text == "Z":
        return timezone.utc
    digits = text[1:].replace(":", "")
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return timezone(-offset if text[0] == "-" else offset)
