"""Which bundle judges: chosen at the start, swapped while the station works, rolled back when it does harm.

Invariants
- A bundle judges only after it was verified and self-tested on this machine; until then, and when it is refused, the
  one before goes on. A frame is judged by one bundle from its first step to its verdict.
- The store's pointer says what is wanted; ``status`` and ``judging.json`` say what judges and why it is not the wanted.
- One change at a time, whoever asks for it: the pointer, a command, the drop folder, a trial that ended badly.
"""

from __future__ import annotations

import threading
from pathlib import Path

from agent.app.bundles import saying
from agent.app.bundles.beginning import FELL_BACK, ROLLED_BACK, first_that_passes, point_back, take_back_the_deadly
from agent.app.bundles.drop import DropFolder
from agent.app.bundles.probation import Probation
from agent.app.bundles.shadow import Shadow
from agent.app.bundles.trial import Trial, shares
from agent.clock import Clock, iso_utc
from agent.config import AgentConfig
from agent.errors import BundleError, RetryError, WeldwatchError
from agent.health import Health
from agent.inspection import Inspector
from agent.logs import log
from agent.model.devices import CPU, to_try
from agent.model.judging import Sign
from agent.model.loading import Choice, Loaded, Trust, load
from agent.model.rehearsal import Rehearsal
from agent.model.store import SHIPPED, Store, resolve

REFUSED, SHADOW_REFUSED = "bundle_refused", "shadow_refused"
UNSIGNED = "no signature was asked for: bundle.trusted_keys is not set"
_LOADING_S = 5.0  #: a stop waits no longer for a change that is under way
_log = log("bundles")


class Bundles:
    """The station's bundle, through its life: ``serve``, then ``look`` a few times a second from one thread, ``stop``.

    ``activate`` and ``rollback`` take their time and are for threads of their own.
    """

    def __init__(self, config: AgentConfig, health: Health, clock: Clock) -> None:
        self.trust = Trust.of(config)
        self.initial, self._health, self._clock = config.bundle.initial, health, clock
        self.store = Store(Path(config.state))
        self._pointer_seen = self.store.stamp()
        self._shadow_seen: object = None
        self._changing = threading.Lock()
        self._rehearsal = Rehearsal()
        self._trial: Trial | None = None
        self._inspector: Inspector | None = None
        self._shadow: Shadow | None = None
        self._probation, self._started = Probation(self.store), False
        if take_back_the_deadly(self.store, self._probation, health):
            self._pointer_seen = self.store.stamp()
        dropped = config.bundle.drop_folder is not None
        self._drop = DropFolder(config.bundle, self.store, self.activate, health, clock) if dropped else None
        try:
            try:
                loaded = first_that_passes(self.store, self.trust, self.initial, health)
            except BundleError:
                if not dropped:
                    raise
                DropFolder(config.bundle, self.store, self._first, health, clock).look_settled()
                loaded = first_that_passes(self.store, self.trust, self.initial, health)
        except BaseException:
            self._probation.rest()
            raise
        self._judge_with(loaded)
        self._trial = self._probation.resumed(self.loaded, self.trust, health)
        self._sign = Sign(Path(config.state))
        self._say()
        saying.tidy_engines(self.trust)

    def _first(self, name: str) -> Loaded:
        """``activate`` for a station that has nothing to judge with yet."""
        path = resolve(name, self.store)
        loaded = load(path, self.trust, self._rehearsal.run(path, self.trust))
        self.store.activate(name, self.initial)
        return loaded

    def serve(self, inspector: Inspector, shadow: Shadow) -> None:
        """Whom to hand models to. Once, before the first ``look``."""
        self._inspector, self._shadow = inspector, shadow
        inspector.show_to(shadow.see)

    def candidate(self) -> str | None:
        """What judges beside, for status."""
        beside = self._shadow.loaded if self._shadow is not None else None
        return beside.path.stem if beside is not None else None

    def warning(self) -> str | None:
        """What status says of a bundle that is taken on trust."""
        return UNSIGNED if self.trust.keys is None else None

    def start(self) -> None:
        """Begin what runs beside the line, which begins to judge."""
        self._started = True
        if self._shadow is not None:
            self._shadow.start()
        if self._drop is not None:
            self._drop.start()

    def look(self) -> None:
        """Follow a moved pointer (in a thread of its own, the line goes on); watch a fresh bundle's first frames."""
        if not self._changing.acquire(blocking=False):
            return
        following = False
        try:
            pointer, shadow = self.store.stamp(), self.store.shadow_stamp()
            if (pointer, shadow) != (self._pointer_seen, self._shadow_seen):
                moved, self._pointer_seen, self._shadow_seen = pointer != self._pointer_seen, pointer, shadow
                threading.Thread(target=self._follow, args=(moved,), name="bundle", daemon=True).start()
                following = True
            elif self._trial is not None:
                self._probation.prove(self._trial.judged())
                if verdict := self._trial.verdict():
                    self._end_trial(verdict)
        finally:
            if not following:
                self._changing.release()

    def activate(self, name: str) -> Loaded:
        """Test ``name``, then point at it and let it judge. ``BundleError``: it is refused, nothing has changed."""
        with self._changing:
            if self.store.path(name) is None and name != SHIPPED:
                raise self.store.not_installed(name)
            loaded = self._tested(resolve(name, self.store))
            self.store.activate(name, self.initial)
            return self._take(loaded)

    def rollback(self) -> Loaded:
        """Test what judged before, then point at it and let it judge."""
        with self._changing:
            loaded = self._tested(resolve(self.store.former(), self.store))
            self.store.rollback()
            return self._take(loaded)

    def rest(self) -> None:
        """The station ends in good order: whatever bundle is on trial has not done that."""
        if self._changing.acquire(timeout=_LOADING_S):
            try:
                self._probation.rest()
            finally:
                self._changing.release()

    def stop(self) -> None:
        """No more changes."""
        if not self._started:
            self._probation.rest()
        self._rehearsal.cancel()
        if self._drop is not None:
            self._drop.stop()
        if self._shadow is not None:
            self._shadow.stop()
        self._sign.close()

    # -- a change, under the lock ------------------------------------------------------------------------------------

    def _tested(self, path: Path) -> Loaded:
        """Load beside a line that works. What judges already was tested already."""
        if path == self.loaded.path:
            return self.loaded
        return load(path, self.trust, self._rehearsal.run(path, self.trust))

    def _rehearsed(self, path: Path) -> Choice | None:
        """Whoever moved the pointer has tested it in a process of his own; only where an engine may have to be built is
        it loaded aside first.
        """
        aside = [device.name for device in to_try(self.trust.device)] != [CPU]
        return self._rehearsal.run(path, self.trust) if aside else None

    def _follow(self, moved: bool) -> None:
        try:
            if moved:
                self._take_up()
            self._take_shadow_up()
        except RetryError:
            pass  # the agent stops
        except Exception:  # noqa: BLE001  # the thread's last line: logged whole, the line goes on as it is
            _log.exception("bundle_fault: while taking up a bundle; %s goes on", self.loaded.name)
        finally:
            self._changing.release()

    def _take_up(self) -> None:
        """What the pointer asks for."""
        wanted = None
        try:
            pointer = self.store.pointer()
            if pointer is None:
                return
            wanted, path = pointer.active, resolve(pointer.active, self.store)
            if path == self.loaded.path:
                self._take(self.loaded)
                return
            choice = self._rehearsed(path)
            if self._leads_back():
                self._probation.begin(path, self.loaded.path, shares(self._health))
            loaded = load(path, self.trust, choice)
        except RetryError:
            raise
        except Exception as error:  # noqa: BLE001  # what is no refusal is logged whole; the line goes on with the old one
            unexpected = None if isinstance(error, WeldwatchError) else error
            self._probation.end()
            self._health.clear_problem(REFUSED)
            self._health.raise_problem(REFUSED, str(error))
            _log.error("%s: %s; %s goes on", REFUSED, error, self.loaded.name, exc_info=unexpected)
            self._say(wanted, f"{REFUSED}: {error}")
            return
        self._take(loaded)

    def _take(self, loaded: Loaded) -> Loaded:
        """Let it judge, on trial."""
        for problem in (REFUSED, FELL_BACK, ROLLED_BACK):
            self._health.over(problem, f"{loaded.name} judges")
        if loaded is not self.loaded:
            self._trial = Trial(self.loaded, self._health) if self._leads_back() else None
            if self._trial is None:
                self._probation.end()
            else:
                self._probation.begin(loaded.path, self.loaded.path, self._trial.usual)
            self._judge_with(loaded)
            saying.announce(loaded)
        self._say()
        saying.tidy_engines(self.trust)
        self._health.changed()
        return loaded

    def _leads_back(self) -> bool:
        """Whether the pointer leads back to what judges; where not, a person has withdrawn it: it must not return."""
        try:
            self.store.former(self.loaded.path)
        except BundleError:
            return False
        return True

    def _judge_with(self, loaded: Loaded) -> None:
        if loaded.refusals:
            self._health.clear_problem(saying.SECOND_CHOICE)  # the next lines say which now
        else:
            self._health.over(saying.SECOND_CHOICE)
        for refusal in loaded.refusals:
            self._health.raise_problem(saying.SECOND_CHOICE, refusal)
        self.loaded, self._since = loaded, iso_utc(self._clock.now())
        if self._inspector is not None:
            self._inspector.swap(loaded.model)

    def _end_trial(self, verdict: str) -> None:
        trial, self._trial = self._trial, None
        if trial is None or verdict == "kept":
            self._probation.end()
            return
        self._health.raise_problem(ROLLED_BACK, verdict)
        harmful = self.loaded
        self._judge_with(trial.before)
        _log.error("%s: %s with %s; %s judges again", ROLLED_BACK, verdict, harmful.name, trial.before.name)
        point_back(self.store, trial.before.path)
        self._probation.end()
        self._pointer_seen = self.store.stamp()
        self._say(harmful.path.stem, f"{ROLLED_BACK}: {verdict}")
        self._health.changed()

    def _take_shadow_up(self) -> None:
        """The candidate that the store names, beside the active bundle."""
        if self._shadow is None:
            return
        name = self.store.shadow()
        try:
            path = resolve(name, self.store) if name else None
            if path is None or path == self.loaded.path:
                self._health.over(SHADOW_REFUSED)
                self._shadow.use(None)
            elif self._shadow.loaded is None or path != self._shadow.loaded.path:
                candidate = load(path, self.trust, self._rehearsed(path))
                self._health.over(SHADOW_REFUSED)  # before it judges, and may fail
                self._shadow.use(candidate)
        except BundleError as error:
            self._shadow.use(None)
            self._health.raise_problem(SHADOW_REFUSED, str(error))
            _log.warning("%s: %s; nothing judges beside %s", SHADOW_REFUSED, error, self.loaded.name)
        self._health.changed()

    # -- what is said ------------------------------------------------------------------------------------------------

    def _say(self, wanted: str | None = None, problem: str | None = None) -> None:
        if problem is None and (detail := self._health.problems().get(FELL_BACK)) is not None:
            problem = f"{FELL_BACK}: {detail}"
        self._sign.show(saying.judging(self.loaded, self._since, iso_utc(self._clock.now()), wanted, problem))
