"""What the station knows of its own condition: counters, problems, and who wants to hear of a change.

Invariants: counters only go up; a problem is raised and cleared by the room that sees it, under a stable code listed in
``docs/operations.md``; raising what is raised and clearing what is clear change nothing and tell nobody.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable


class Health:
    """Shared by all threads of the agent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: Counter[str] = Counter(inspected=0, errors=0)
        self._problems: dict[str, str] = {}
        self._listeners: list[Callable[[], None]] = []

    def count(self, name: str, by: int = 1) -> None:
        """Add to a counter."""
        with self._lock:
            self._counters[name] += by

    def counters(self) -> dict[str, int]:
        """All counters so far."""
        with self._lock:
            return dict(self._counters)

    def raise_problem(self, code: str, detail: str = "") -> bool:
        """Note that something is wrong until it is cleared. True when it is news (log it then, and only then)."""
        with self._lock:
            news = code not in self._problems
            self._problems[code] = detail
        if news:
            self._tell()
        return news

    def clear_problem(self, code: str) -> bool:
        """Note that it is right again. True when it was wrong before."""
        with self._lock:
            news = self._problems.pop(code, None) is not None
        if news:
            self._tell()
        return news

    def problems(self) -> dict[str, str]:
        """Stable code to detail, in the order raised."""
        with self._lock:
            return dict(self._problems)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` (briefly, from any thread) whenever the problems change."""
        self._listeners.append(listener)

    def changed(self) -> None:
        """Something beside the problems changed that the status topic shows (another bundle)."""
        self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()
