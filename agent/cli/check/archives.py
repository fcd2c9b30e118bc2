"""Whether anybody empties the archives of the folder sources."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from agent.cli.check.finding import Finding

if TYPE_CHECKING:
    from agent.config import AgentConfig


def archives(config: AgentConfig) -> Iterator[Finding]:
    """An archive without a limit grows until its disk is full."""
    from agent.config import FolderConfig

    for index, source in enumerate(config.sources):
        if isinstance(source, FolderConfig) and source.after == "archive" and not source.limits_archive:
            yield Finding(
                f"sources[{index}].archive_keep_days",
                "warning",
                f"{source.archive} has no limit: it grows until its disk is full",
                "archive_keep_days or archive_keep_gb, or somebody empties it",
            )
