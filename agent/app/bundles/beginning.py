"""With which bundle a station begins.

Invariants
- A bundle that the agent died with in its trial is not loaded again: the pointer goes back before anything is.
- Active, former, initial: the first of them that passes judges; why the others do not is a problem on status.
"""

from __future__ import annotations

from pathlib import Path

from agent.app.bundles.probation import Probation
from agent.app.bundles.saying import announce
from agent.errors import BundleError
from agent.health import Health
from agent.logs import log
from agent.model.loading import Loaded, Trust, load
from agent.model.store import SHIPPED, Store, resolve

FELL_BACK, ROLLED_BACK = "bundle_fell_back", "bundle_rolled_back"
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
