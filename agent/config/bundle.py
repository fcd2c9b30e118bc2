"""The ``bundle`` section: which bundle judges, and what it has to show first."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from agent.config.section import Section


class BundleConfig(Section, frozen=True):
    """Which bundle judges until the store has an active one, and on what device."""

    initial: Annotated[str, Meta(min_length=1)] = "weld-demo"
    device: Literal["auto", "cpu"] = "auto"
    trusted_keys: str | None = None  #: folder of public keys; with it, a bundle that none of them signed is refused
    budget_ms: Annotated[float, Meta(gt=0)] | None = None  #: slowest a frame may be judged in the self-test
