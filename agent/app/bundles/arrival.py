"""The commands that bring bundles, let them judge, and take that back.

Each answers when it is done, from its own thread: a download, an engine to be built and the self-test take time. The
answer to ``bundle-activate`` says what judges, not what was asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Annotated, Any

from msgspec import Meta

from agent.app.bundles.life import Bundles
from agent.app.bundles.remote import Remote
from agent.app.commands import Order, Outcome, RefusedError, Wishes
from agent.errors import BundleError
from agent.model.loading import Loaded

Text = Annotated[str, Meta(min_length=1, max_length=2000)]


class Install(Wishes, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bring a bundle: ``path`` below ``bundle.remote.folder``, or ``url`` among ``bundle.remote.addresses``."""

    path: Text | None = None
    url: Text | None = None
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{64}$(?!\n)")] | None = None


class Activate(Wishes, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Let an installed bundle judge."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]


class Rollback(Wishes, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Let the bundle judge that judged before."""


class Arrival:
    """Carries the commands out, one at a time."""

    def __init__(self, bundles: Bundles, remote: Remote) -> None:
        self._bundles, self._remote = bundles, remote
        self._free = threading.Lock()

    def orders(self) -> dict[str, Order[Any]]:
        """The commands by name."""
        return {
            "bundle-install": Order(Install, lambda wish: self._aside(lambda: self._install(wish))),
            "bundle-activate": Order(Activate, lambda wish: self._aside(lambda: self._judging(wish.name))),
            "bundle-rollback": Order(Rollback, lambda _: self._aside(lambda: self._judging(None))),
        }

    def _install(self, wish: Install) -> Outcome:
        return {"installed": self._remote.take(wish.path, wish.url, wish.sha256)}

    def _judging(self, name: str | None) -> Outcome:
        if self._bundles.trust.keys is None:
            raise BundleError(
                "bundle.trusted_keys is not set; what a command lets judge must be signed by a trusted key"
            )
        return judging(self._bundles.rollback() if name is None else self._bundles.activate(name))

    def _aside(self, work: Callable[[], Outcome]) -> Future[Outcome]:
        if not self._free.acquire(blocking=False):
            raise RefusedError("another bundle command is being carried out; send it again later")
        future: Future[Outcome] = Future()

        def run() -> None:
            try:
                outcome = work()
            except Exception as error:  # noqa: BLE001  # handed to whoever asked, who logs what is no refusal
                self._free.release()
                future.set_exception(error)
            else:
                self._free.release()
                future.set_result(outcome)

        threading.Thread(target=run, name="bundle command", daemon=True).start()
        return future


def judging(loaded: Loaded) -> dict[str, Any]:
    """What judges now, for an answer."""
    facts = loaded.model.facts
    return {
        "judges": f"{facts.name}-{facts.version}",
        "variant": facts.variant,
        "device": loaded.model.device,
        "latency_ms": round(loaded.latency_ms, 2),
        "signed_by": loaded.signed_by,
    }
