"""Which result it is that breaks connections: a broker that hangs up upon it says nothing but that.

Invariants
- What was on its way when a connection broke goes one by one on the next: each gets its acknowledgement before the
  culprit goes out, so that two or three connections tell which it is, however slow the answers are.
- Who was the first without an acknowledgement when two connections in a row broke is the suspect. From then on it goes
  alone, on a connection that has just been quiet for a while and has taken another result: the last one that was ever
  accepted, sent once more for that. Only what breaks such a connection is a strike; five in a row, and it is given up.
- A broker that refuses every result by hanging up breaks at the other one, too, and buries nothing. Where none was
  ever accepted, what a connection begins with (status, births) has to do for a proof; that counts for one result only,
  until another is accepted.
- Fresh results and those that are sent again have a suspect each: trouble with the one is none of the other's.
"""

from __future__ import annotations

from collections.abc import Callable

from agent.ports import Stored

STRIKES = 5
_BREAKS = 2  #: connections that end at the same result before it is suspected


class Suspect:
    """Told by the thread that delivers what becomes of each result.

    ``taken()``: what an earlier life of the agent delivered last, if anything.
    """

    def __init__(self, taken: Callable[[], Stored | None] = lambda: None) -> None:
        self._taken, self._id = taken, ""
        self._breaks = self._strikes = 0
        self._last = 0  #: sequence of the last one that was on its way when a connection broke
        self.good: Stored | None = None  #: what the broker accepted last: can be sent again to see whether it works
        self._proven = False  #: a result was accepted on the connection in use
        self._blind = False  #: one was given up without one that was accepted before

    def is_(self, one: Stored) -> bool:
        """Whether this one is the suspect."""
        return self._breaks >= _BREAKS and one.result_id == self._id

    def goes_alone(self, one: Stored) -> bool:
        """Whether nothing else may be on its way with it."""
        return one.sequence <= self._last or self.is_(one)

    def connected(self) -> None:
        """Results go out on another connection now."""
        self._proven = False

    @property
    def wants_proof(self) -> Stored | None:
        """What is to be sent before the suspect, if anything: to be acknowledged on this connection."""
        if self.good is None:
            self.good = self._taken()
        return None if self._proven else self.good

    def accepted(self, one: Stored) -> None:
        """The broker has taken it."""
        self.good, self._proven, self._blind = one, True, False
        if one.sequence >= self._last:
            self._last = 0
        if one.result_id == self._id:
            self._forget()

    def lost(self, last: Stored) -> None:
        """A connection ended with all up to this one on their way."""
        self._last = max(self._last, last.sequence)

    def broke(self, one: Stored, *, begun: bool, soon: bool) -> bool:
        """The broker ended a connection at this one, ``soon`` after it was sent; ``begun``: it took what comes first.

        True when it is to be given up.
        """
        if one.result_id != self._id:
            self._id, self._breaks, self._strikes = one.result_id, 0, 0
        alone = self.is_(one)
        self._breaks += 1
        if alone and (self._proven or (self.good is None and begun and soon and not self._blind)):
            self._strikes += 1
        if self._strikes < STRIKES:
            return False
        self._blind = not self._proven
        self._forget()
        return True

    def _forget(self) -> None:
        self._id, self._breaks, self._strikes = "", 0, 0
