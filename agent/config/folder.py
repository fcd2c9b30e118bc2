"""The section of a capture folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from agent.config.section import Seconds, Section, TopicLevel
from agent.errors import ConfigError


class FolderConfig(Section, frozen=True, tag_field="type", tag="folder"):
    """A capture folder that a camera, FTP or SMB client writes into."""

    name: TopicLevel
    path: str
    patterns: Annotated[list[str], Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: ["*.png", "*.jpg", "*.jpeg", "*.bmp", "*.tif", "*.tiff", "*.webp", "*.pgm", "*.ppm"]
    )
    settle_s: Seconds = 0.5
    rescan_s: Annotated[float, Meta(ge=0.1, le=3600)] = 5.0
    incomplete_s: Seconds = 10.0
    after: Literal["keep", "archive", "delete"] = "keep"
    archive: str | None = None
    archive_keep_days: Annotated[int, Meta(ge=1, le=36_500)] | None = None
    archive_keep_gb: Annotated[float, Meta(gt=0)] | None = None  #: 10⁹ bytes
    rejected: str | None = None
    name_pattern: str | None = None

    @property
    def limits_archive(self) -> bool:
        """Whether anything is ever removed from the archive."""
        return self.archive_keep_days is not None or self.archive_keep_gb is not None


def check_folder(source: FolderConfig, file: str, at: str) -> None:
    """What one key alone cannot tell; ``at`` is the key path of this source."""
    if source.name_pattern is not None:
        try:
            groups = set(re.compile(source.name_pattern).groupindex)
        except re.error as error:
            raise ConfigError(file, f"{at}.name_pattern", f"not a regular expression: {error}") from None
        allowed = {"part_id", "job_id", "weld_id", "frame", "captured_at"}
        if groups - allowed:
            odd = sorted(groups - allowed)[0]
            raise ConfigError(
                file, f"{at}.name_pattern", f"unknown group {odd!r}", f"allowed: {', '.join(sorted(allowed))}"
            )
    if source.after == "archive" and source.archive is None:
        raise ConfigError(file, f"{at}.archive", "missing", "after: archive needs a folder to move the images to")
    for field in ("archive_keep_days", "archive_keep_gb"):
        if source.archive is None and getattr(source, field) is not None:
            raise ConfigError(file, f"{at}.{field}", "no archive that it could limit", "name its folder in archive")
    for field in ("archive", "rejected"):
        target = getattr(source, field)
        if target is not None and within(Path(target), Path(source.path)):
            raise ConfigError(file, f"{at}.{field}", f"found {target!r}", "must lie outside the watched folder")


def check_archive(source: FolderConfig, others: Mapping[str, str], file: str, at: str) -> None:
    """What is removed from an archive must not be anything else's. ``others``: key path to folder."""
    if source.archive is None or not source.limits_archive:
        return
    for key, folder in others.items():
        if within(Path(folder), Path(source.archive)):
            found = f"found {source.archive!r}, which holds {key} ({folder!r})"
            raise ConfigError(file, f"{at}.archive", found, "with a limit an archive needs a folder of its own")


def within(path: Path, folder: Path) -> bool:
    """Whether ``path`` is ``folder`` or lies in it, links followed."""
    path, folder = path.resolve(), folder.resolve()
    return path == folder or folder in path.parents
