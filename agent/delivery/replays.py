"""Wishes to have a span of time again: written down by whoever asks, taken up by the agent, now or when it starts.

    <state>/replays/
    ├── 20261122T102205141Z-3f2a.json       the wish; it is there until everything was sent, or it is cancelled
    └── 20261122T102205141Z-3f2a.progress   how far the agent is; only the agent writes it

Invariants
- A wish is durable when ``ask`` returns; it goes after its last result was sent, so a kill repeats and loses none.
- Removing the wish cancels it, with the agent running or stopped.
- Nothing here holds the ledger's lock, nor keeps results from being pruned: what is pruned by then is not sent.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from datetime import datetime
from pathlib import Path

import msgspec

from agent.clock import compact_utc, iso_utc
from agent.delivery.file_names import sync_directory
from agent.errors import UsageError

FOLDER = "replays"
_MOST = 16
#: What a file that holds none of these can raise; somebody else may have put it there.
_NONE = (OSError, msgspec.DecodeError, ValueError, RecursionError)


class Wish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Results made from ``since`` to before ``until`` (as ``iso_utc`` writes them), to one sink."""

    sink: str
    since: str
    until: str
    asked_at: str


class Progress(msgspec.Struct, frozen=True):
    """How far it is, in the sequences of one ledger."""

    ledger_id: str
    last: int  #: the last sequence of the span
    total: int  #: results of the span that the ledger had when it was taken up
    at: int  #: done up to here
    sent: int


class Replays:
    """The folder below the state folder. Safe to use from several processes."""

    def __init__(self, state: Path) -> None:
        self.folder = state / FOLDER

    def ask(self, sink: str, since: datetime, until: datetime, now: datetime) -> str:
        """Write a wish down; its name. ``UsageError`` where that cannot be, or too many wait.

        What is made after ``now`` is not part of it: that is delivered anyway.
        """
        if since >= until:
            raise UsageError(f"since {iso_utc(since)} is not before until {iso_utc(until)}; exchange them")
        if len(self.names()) >= _MOST:
            raise UsageError(f"{_MOST} replays wait already; cancel one, see `weldwatch outbox status`")
        wish = Wish(sink, iso_utc(since), iso_utc(min(until, now)), iso_utc(now))
        name = f"{compact_utc(now)}-{secrets.token_hex(2)}"
        try:
            self._make_folder()
            hidden = self.folder / f".{name}.json"
            with hidden.open("xb") as file:
                file.write(msgspec.json.encode(wish))
                self._give_away(file.fileno())
                file.flush()
                os.fsync(file.fileno())
            hidden.rename(self._wish(name))
            sync_directory(self.folder)
        except OSError as error:
            raise UsageError(
                f"{error.filename or self.folder}: {error.strerror}; ask as the agent's own user"
            ) from None
        return name

    def _make_folder(self) -> None:
        if not self.folder.exists():
            self.folder.mkdir()
            self._give_away(self.folder)
            sync_directory(self.folder.parent)

    def _give_away(self, what: Path | int) -> None:
        """To whom the state belongs, so that an agent of its own user can read and end what root asked for."""
        if os.geteuid() == 0:
            owner = self.folder.parent.stat()
            os.chown(what, owner.st_uid, owner.st_gid)

    def names(self) -> list[str]:
        """All wishes, oldest first."""
        try:
            return sorted(path.stem for path in self.folder.iterdir() if path.suffix == ".json" and path.name[0] != ".")
        except OSError:
            return []

    def wish(self, name: str) -> Wish | None:
        """What was asked for; None when it is gone, or no wish at all."""
        path = self._wish(name)
        with contextlib.suppress(*_NONE):
            return msgspec.json.decode(path.read_bytes(), type=Wish) if path.is_file() else None
        return None

    def progress(self, name: str) -> Progress | None:
        """How far the agent was about a second ago; None before it began."""
        with contextlib.suppress(*_NONE):
            return msgspec.json.decode(self._progress(name).read_bytes(), type=Progress)
        return None

    def is_wanted(self, name: str) -> bool:
        """Whether it has not been cancelled."""
        return self._wish(name).exists()

    def note(self, name: str, progress: Progress) -> None:
        """Write down how far it is; not synced, as what is lost of it is only sent once more. ``OSError``."""
        hidden = self.folder / f".{name}.progress"
        hidden.write_bytes(msgspec.json.encode(progress))
        hidden.replace(self._progress(name))

    def end(self, name: str) -> None:
        """Done or cancelled. ``OSError`` where it cannot be removed."""
        self._progress(name).unlink(missing_ok=True)
        self._wish(name).unlink(missing_ok=True)

    def cancel(self, name: str) -> None:
        """Not wanted any more. ``UsageError`` when there is none of that name, or it may not be removed."""
        if name not in self.names():
            waiting = ", ".join(self.names()) or "none"
            raise UsageError(f"no replay {name!r} waits; waiting: {waiting}")
        try:
            self.end(name)
        except OSError as error:
            raise UsageError(f"{error.filename}: {error.strerror}; cancel as the agent's own user") from None

    def _wish(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _progress(self, name: str) -> Path:
        return self.folder / f"{name}.progress"
