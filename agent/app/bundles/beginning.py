"""With which bundle a station begins, and what is said and done of each one that begins to judge.

Invariants
- A bundle that the agent died with in its trial is not loaded again: the pointer goes back before anything is.
- Active, former, initial: the first of them that passes judges; why the others do not is a problem on status.
"""

from __future__ import annotations

from pathlib import Path

from agent.app.bundles.probation import Probation
from agent.errors import BundleError
from agent.health import Health
from agent.logs import log
from agent.model.devices import CPU, tidy
from agent.model.loading import Loaded, Trust, load
from agent.model.store import SHIPPED, Store, resolve

FELL_BACK, ROLLED_BACK, SECOND_CHOICE = "bundle_fell_back", "bundle_rolled_back", "bundle_variant_refused"
_SHIPS = "; it ships for trying only: install and activate a signed bundle, or put one into bundle.drop_folder"
_log = log("bundles")


def first_that_passes(store: Store, trust: Trust, initial: str, health: Health) -> Loaded:
    """The first of active, former and initial bundle that passes. ``BundleError`` when none does."""
    refusals: list[str] = []
    try:
        candidates = store.candidates(initial)
    except BundleError as error:
        refusals.append(str(error))
        candidates = [initial]
    for name in candidates:
        try:
            loaded = load(resolve(name, store), trust)
        except BundleError as error:
            ships = name == SHIPPED and trust.keys is not None
            refusals.append(f"{error}{_SHIPS}" if ships else str(error))
            continue
        if refusals:
            health.raise_problem(FELL_BACK, refusals[0])
            _log.error("%s: %s; %s judges instead", FELL_BACK, refusals[0], loaded.name)
        announce(loaded)
        return loaded
    raise BundleError(refusals[0])


def take_back_the_deadly(store: Store, probation: Probation, health: Health) -> bool:
    """Before anything is loaded: whether there was a bundle that the agent has died with in its trial."""
    try:
        pointer = store.pointer()
        wanted = resolve(pointer.active, store) if pointer else None
    except BundleError:
        return False  # the start says what is wrong with it
    if (term := probation.enter(wanted)) is None:
        return False
    verdict = f"the agent died with {Path(term.bundle).stem} in its trial"
    health.raise_problem(ROLLED_BACK, verdict)
    _log.error("%s: %s; what judged before is to judge again", ROLLED_BACK, verdict)
    point_back(store, Path(term.before))
    probation.end()
    return True


def point_back(store: Store, before: Path) -> None:
    """Point at what judged before; a store that cannot be written leaves the pointer, and the line goes on."""
    try:
        store.rollback(before)
    except BundleError as error:
        _log.error("%s: the store's pointer could not be moved: %s", ROLLED_BACK, error)


def announce(loaded: Loaded) -> None:
    """What judges now, for the log."""
    facts = loaded.model.facts
    for refusal in loaded.refusals:
        _log.warning("%s: %s; using %s on %s", SECOND_CHOICE, refusal, facts.variant, loaded.model.device)
    tested = f"golden images within {loaded.self_test_deviation:.1g}, {loaded.latency_ms:.1f} ms a frame"
    signed = f", signed by {loaded.signed_by}" if loaded.signed_by else ""
    where = f"{facts.variant}" if loaded.model.device == CPU else f"{facts.variant} on {loaded.model.device}"
    _log.info("bundle %s (%s): self-test passed, %s%s", loaded.name, where, tested, signed)
    if loaded.notice:
        _log.warning("bundle_notice: %s: %s", facts.name, loaded.notice)


def tidy_engines(trust: Trust) -> None:
    """Built engines that nobody has used for long go; what cannot be removed stays."""
    if trust.engines is not None:
        try:
            tidy(trust.engines)
        except OSError as error:
            _log.warning("engines_not_tidied: %s: %s; old engines stay", error.filename, error.strerror)
