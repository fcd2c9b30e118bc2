"""``weldwatch bundle install``, ``list``, ``activate``, ``rollback``, ``shadow``: what a station has and judges with.

Invariants: each works with the agent running or stopped, through the store's files; what is said of the running agent
is what it says of itself.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.cli import tables
from agent.cli.bundle.answer import answer

if TYPE_CHECKING:
    from agent.config import AgentConfig
    from agent.model.judging import Judging
    from agent.model.store import Store

_TAKEN_UP_S = 20.0  #: so long a running agent is waited for; it looks four times a second


def _station(options: argparse.Namespace) -> tuple[AgentConfig, Store]:
    from agent import config
    from agent.app.places import enter_state
    from agent.model.store import Store

    settings = config.load(config.find(options.config))
    enter_state(Path(settings.state))
    return settings, Store(Path(settings.state))


def install(options: argparse.Namespace) -> int:
    """Copy it into the store."""
    from agent.model.loading import Trust
    from agent.model.store import opened, pour

    with opened(Path(options.bundle)) as file:  # by who gives it: the state's owner may not be able to read it
        config, store = _station(options)
        name = store.receive(lambda out: pour(file, out), options.bundle, Trust.of(config).keys, config.bundle.initial)
    return answer(options, {"installed": name}, f"{name} is installed; next: weldwatch bundle activate {name}")


def show(options: argparse.Namespace) -> int:
    """What is installed, what is wanted, what judges."""
    from agent.model.judging import read

    config, store = _station(options)
    pointer, shadow = store.pointer(), store.shadow()
    judging, runs = read(Path(config.state))
    wanted = pointer.active if pointer else config.bundle.initial
    names = store.names()
    rows = []
    for name in [*names, *([] if wanted in names else [wanted])]:
        notes = ["judges beside, as shadow"] if name == shadow else []
        if name == wanted and pointer is None:
            notes.append("bundle.initial; nothing was activated yet")
        if judging is not None and runs and _is(judging, name, store):
            notes.insert(0, f"judges since {judging.since}, {judging.variant} on {judging.device}")
        rows.append((f"{'*' if name == wanted else ' '} {name}", "; ".join(notes)))
    about = "* is what was activated" + ("" if runs else "; no agent is running")
    if runs and judging is not None and judging.problem:
        about += f"\nthe running agent says {judging.problem}"
    values = {
        "active": pointer.active if pointer else None,
        "initial": config.bundle.initial,
        "installed": names,
        "history": pointer.history if pointer else [],
        "shadow": shadow,
        "running": runs,
        "judging": _facts(judging) if runs and judging else None,
    }
    if not options.json:
        tables.show((), rows)
    return answer(options, values, about)


def activate(options: argparse.Namespace) -> int:
    """Test it here, then point at it."""
    from agent.model.loading import Trust, load
    from agent.model.store import SHIPPED, resolve

    config, store = _station(options)
    if store.path(options.bundle) is not None or options.bundle == SHIPPED:
        load(resolve(options.bundle, store), Trust.of(config))
    said = _said(config)
    store.activate(options.bundle, config.bundle.initial)
    return _followed(options, config, store, options.bundle, said, "passed its self-test here and is active")


def rollback(options: argparse.Namespace) -> int:
    """Point at what judged before."""
    config, store = _station(options)
    said = _said(config)
    return _followed(options, config, store, store.rollback(), said, "is active again")


def shadow(options: argparse.Namespace) -> int:
    """Let a candidate judge beside, or end that."""
    from agent.model.loading import Trust, load
    from agent.model.store import SHIPPED, resolve

    config, store = _station(options)
    if options.off:
        store.set_shadow(None)
        return answer(options, {"shadow": None}, "nothing judges beside the active bundle any more")
    if store.path(options.bundle) is not None or options.bundle == SHIPPED:
        load(resolve(options.bundle, store), Trust.of(config))
    store.set_shadow(options.bundle)
    text = (
        f"{options.bundle} passed its self-test here and judges beside the active bundle while the agent runs; next, "
    )
    return answer(options, {"shadow": options.bundle}, text + "after some frames: weldwatch bundle compare")


def _said(config: AgentConfig) -> str | None:
    """When the running agent last said what judges: what it says later is news."""
    from agent.model.judging import read

    judging, runs = read(Path(config.state))
    return judging.said_at if runs and judging else None


def _followed(
    options: argparse.Namespace, config: AgentConfig, store: Store, name: str, said: str | None, done: str
) -> int:
    """Wait until a running agent has taken it up or refused it, and say which."""
    from agent.logs import printable
    from agent.model.judging import read

    began = time.monotonic()
    while True:
        judging, runs = read(Path(config.state))
        if not runs or judging is None:
            return answer(options, {"active": name, "judging": None}, f"{name} {done}; no agent is running here")
        values: dict[str, Any] = {"active": name, "judging": _facts(judging)}
        if _is(judging, name, store):
            return answer(options, values, f"{name} {done}; the running agent judges with it")
        if judging.wanted == name and judging.problem and judging.said_at != said:
            print(f"weldwatch: {name} {done}, but the running agent says {printable(judging.problem)}", file=sys.stderr)
            return answer(options, values, f"{judging.name} {judging.version} goes on", 1) if options.json else 1
        if time.monotonic() - began > _TAKEN_UP_S:
            return answer(options, values, f"{name} {done}; the running agent still prepares it, see its log")
        time.sleep(0.1)


def _is(judging: Judging, name: str, store: Store) -> bool:
    from agent.errors import BundleError
    from agent.model.store import resolve

    try:
        return Path(judging.path) == resolve(name, store)
    except BundleError:
        return False


def _facts(judging: Judging) -> dict[str, Any]:
    import msgspec

    return dict(msgspec.to_builtins(judging))
