"""What one thread says of its progress: a count that rises with every step, and what it is doing just now.

Invariants: written by that thread alone, read by the watchdog, no lock and no clock between them. At rest (waiting for
a frame, for space on a disk, for the end) a thread owes no progress; between ``step`` and the next call it does.
"""

from __future__ import annotations


class Pulse:
    """At rest when made."""

    def __init__(self) -> None:
        self.count = 0  #: has changed: there was progress
        self.doing: str | None = None  #: in words for the log; None: at rest

    def step(self, doing: str) -> None:
        """This begins now, and must come to its end."""
        self.doing = doing
        self.count += 1

    def rest(self) -> None:
        """What follows may take as long as it likes."""
        self.doing = None
        self.count += 1
