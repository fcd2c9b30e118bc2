"""The ``results`` section: results on disk, and how long they stay."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from agent.config.section import Section


class ResultsConfig(Section, frozen=True):
    """Results on disk."""

    directory: str
    per_image: bool = True
    daily_log: bool = True
    keep_days: Annotated[int, Meta(ge=1, le=36_500)] = 90
    keep_dead_days: Annotated[int, Meta(ge=1, le=36_500)] = 365  #: results that a sink refused for good
    keep_gb: Annotated[float, Meta(gt=0)] | None = None  #: 10⁹ bytes; files and logs together, and the ledger likewise
    reviewed: str | None = None  #: a CSV of labels, as ``bundle compare`` reads it: what it names is kept longest
    min_free_mb: Annotated[int, Meta(ge=0)] = 500
