"""What the station knows of its own condition: counters, times, problems, and who wants to hear of a change.

Invariants: counters only go up; a problem is raised and cleared by the room that sees it, under a stable code listed in
``docs/operations.md``; raising what is raised and clearing what is clear change nothing and tell nobody.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable

from agent.logs import log

_log = log("health")

#: Upper bounds (seconds, inclusive) of the classes that times are counted in; one more class has no bound.
BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

#: Problems whose code ends with a key of the configuration; with others it is a source.
_OF_A_KEY = {"certificate_ends", "certificate_ended", "tls_not_renewed"}

Labels = tuple[tuple[str, str], ...]


class Times:
    """How often something took how long."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)  #: by class, not added up
        self.sum_s = 0.0

    def add(self, seconds: float) -> None:
        """It took so long this time."""
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.sum_s += seconds

    def copy(self) -> Times:
        """As it is now."""
        twin = Times()
        twin.counts, twin.sum_s = list(self.counts), self.sum_s
        return twin


class Health:
    """Shared by all threads of the agent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: Counter[tuple[str, Labels]] = Counter({("inspected", ()): 0, ("errors", ()): 0})
        self._times: dict[str, Times] = {}
        self._problems: dict[str, str] = {}
        self._listeners: list[Callable[[], None]] = []

    def count(self, name: str, by: int = 1, **labels: str) -> None:
        """Add to a counter. ``labels`` say of what kind; they take few values, never an image's name."""
        key = name, tuple(sorted(labels.items()))
        with self._lock:
            self._counters[key] += by

    def counters(self) -> dict[str, int]:
        """All counters so far, each over all its kinds."""
        together: Counter[str] = Counter()
        for (name, _), value in self.by_kind().items():
            together[name] += value
        return dict(together)

    def by_kind(self) -> dict[tuple[str, Labels], int]:
        """All counters so far, by name and labels."""
        with self._lock:
            return dict(self._counters)

    def took(self, stage: str, seconds: float) -> None:
        """A stage of the work took so long."""
        with self._lock:
            self._times.setdefault(stage, Times()).add(seconds)

    def times(self) -> dict[str, Times]:
        """Every stage so far."""
        with self._lock:
            return {stage: times.copy() for stage, times in self._times.items()}

    def raise_problem(self, code: str, detail: str = "") -> bool:
        """Note that something is wrong until it is cleared. True when it is news (log it then, and only then)."""
        with self._lock:
            news = code not in self._problems
            self._problems[code] = detail
        if news:
            self._tell()
        return news

    def clear_problem(self, code: str) -> bool:
        """Note that it is right again. True when it was wrong before: tell its end, or call ``over``, which does."""
        with self._lock:
            news = self._problems.pop(code, None) is not None
        if news:
            self._tell()
        return news

    def over(self, code: str, note: str = "") -> bool:
        """``clear_problem``, and the one line of the log that tells its end; ``note`` says what goes on now."""
        if not self.clear_problem(code):
            return False
        problem, _, source = code.partition(":")
        more = f": {note}" if note else ""
        if source and problem not in _OF_A_KEY:
            _log.info("source %s: %s is over%s", source, problem, more)
        else:
            _log.info("%s is over%s", code, more)
        return True

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
