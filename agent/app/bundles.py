"""Which bundle judges: chosen at the start, swapped while the station works, rolled back when it does harm.

Invariants
- A bundle judges only after it was verified and self-tested on this machine; until then, and when it is refused, the
  one before goes on. A frame is judged by one bundle from its first step to its verdict.
- The store's pointer says what is wanted; ``status`` says what judges and why it is not what is wanted.
"""

from __future__ import annotations

import threading
from pathlib import Path

from agent.config import AgentConfig
from agent.errors import BundleError
from agent.health import Health
from agent.inspection import Inspector
from agent.logs import log
from agent.model.loading import Loaded, Trust, load
from agent.model.store import Store, resolve

REFUSED, FELL_BACK, ROLLED_BACK = "bundle_refused", "bundle_fell_back", "bundle_rolled_back"
TRIAL_FRAMES = 50  #: judged after a swap before it is taken for good
TRIAL_RISE = 0.3  #: rise of the share of NotDecidable or failed frames that undoes a swap
_log = log("bundles")


class Bundles:
    """The station's bundle, through its life. ``look`` is called about once a second, from one thread."""

    def __init__(self, config: AgentConfig, health: Health) -> None:
        self._trust = Trust.of(config)
        self._initial, self._health = config.bundle.initial, health
        self._store = Store(Path(config.state))
        self._stamp = self._store.stamp()
        self._loading: threading.Thread | None = None
        self._trial: _Trial | None = None
        self.loaded = self._start()

    def _start(self) -> Loaded:
        """The first of active, former and initial bundle that passes. ``BundleError`` when none does."""
        refusals: list[str] = []
        try:
            candidates = self._store.candidates(self._initial)
        except BundleError as error:
            refusals.append(str(error))
            candidates = [self._initial]
        for name in candidates:
            try:
                loaded = load(resolve(name, self._store), self._trust)
            except BundleError as error:
                refusals.append(str(error))
                continue
            if refusals:
                self._health.raise_problem(FELL_BACK, refusals[0])
                _log.error("%s: %s; %s judges instead", FELL_BACK, refusals[0], _name(loaded))
            self._announce(loaded)
            return loaded
        raise BundleError(refusals[0])

    def look(self, inspector: Inspector) -> None:
        """Take up a moved pointer (in its own thread: the line goes on), and watch a fresh bundle's first frames."""
        if self._loading is not None and self._loading.is_alive():
            return
        stamp = self._store.stamp()
        if stamp != self._stamp:
            self._stamp = stamp
            self._loading = threading.Thread(target=self._take_up, args=(inspector,), name="bundle", daemon=True)
            self._loading.start()
        elif self._trial is not None and (verdict := self._trial.verdict()):
            self._end_trial(verdict)

    def _take_up(self, inspector: Inspector) -> None:
        try:
            pointer = self._store.pointer()
            if pointer is None:
                return
            path = resolve(pointer.active, self._store)
            if path == self.loaded.path and not self._health.problems().keys() & {REFUSED, FELL_BACK}:
                return
            loaded = load(path, self._trust)
        except BundleError as error:
            self._health.clear_problem(REFUSED)
            self._health.raise_problem(REFUSED, str(error))
            _log.error("%s: %s; %s goes on", REFUSED, error, _name(self.loaded))
            return
        except Exception as error:  # noqa: BLE001  # the thread's last line: logged whole, shown; the line goes on
            self._health.raise_problem(REFUSED, str(error))
            _log.exception("%s: unexpected: %s; %s goes on", REFUSED, error, _name(self.loaded))
            return
        for problem in (REFUSED, FELL_BACK, ROLLED_BACK):
            self._health.clear_problem(problem)
        self._swap(loaded, inspector)

    def _swap(self, loaded: Loaded, inspector: Inspector) -> None:
        before, self.loaded = self.loaded, loaded
        self._trial = _Trial(inspector, before, self._health)
        inspector.swap(loaded.model)
        self._announce(loaded)
        self._health.changed()

    def _end_trial(self, verdict: str) -> None:
        trial, self._trial = self._trial, None
        if trial is None or verdict == "kept":
            return
        self._health.raise_problem(ROLLED_BACK, verdict)
        harmful, self.loaded = self.loaded, trial.before
        trial.inspector.swap(trial.before.model)
        _log.error("%s: %s with %s; %s judges again", ROLLED_BACK, verdict, _name(harmful), _name(trial.before))
        try:
            self._store.rollback()
        except BundleError as error:
            _log.error("%s: the store's pointer could not be moved: %s", ROLLED_BACK, error)
        self._stamp = self._store.stamp()
        self._health.changed()

    def _announce(self, loaded: Loaded) -> None:
        facts = loaded.model.facts
        for refusal in loaded.refusals:
            _log.warning("bundle_variant_refused: %s; using %s on %s", refusal, facts.variant, loaded.model.device)
        tested = f"golden images within {loaded.self_test_deviation:.1g}, {loaded.latency_ms:.1f} ms a frame"
        signed = f", signed by {loaded.signed_by}" if loaded.signed_by else ""
        _log.info("bundle %s (%s): self-test passed, %s%s", _name(loaded), facts.variant, tested, signed)
        if loaded.notice:
            _log.warning("bundle %s: %s", facts.name, loaded.notice)


class _Trial:
    """The first frames after a swap, against those before it."""

    def __init__(self, inspector: Inspector, before: Loaded, health: Health) -> None:
        self.inspector, self.before = inspector, before
        self._health = health
        self._counts = self._count()
        inspected, undecided = self._counts
        self._usual = undecided / inspected if inspected else 0.0

    def _count(self) -> tuple[int, int]:
        """Frames that a model was asked about so far, and those of them that it could not decide."""
        counters = self._health.counters()
        return counters.get("judged", 0), counters.get("judged_undecided", 0)

    def verdict(self) -> str | None:
        """None: not enough frames yet; "kept"; or in words why the swap is undone."""
        inspected, undecided = (now - then for now, then in zip(self._count(), self._counts, strict=True))
        if inspected < TRIAL_FRAMES:
            return None
        share = undecided / inspected
        if share - self._usual < TRIAL_RISE:
            return "kept"
        return f"{share:.0%} of {inspected} frames were not decidable, {self._usual:.0%} before"


def _name(loaded: Loaded) -> str:
    return f"{loaded.model.facts.name} {loaded.model.facts.version}"
