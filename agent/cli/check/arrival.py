"""How images arrive: whether the kernel tells of new ones, or they are found by looking."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli.check.finding import Finding, State, is_folder

if TYPE_CHECKING:
    from agent.config import AgentConfig, FolderConfig

_FOLDERS_LOOKED_AT = 100_000
_SLOW_S = 10.0  #: an image that waits longer for its verdict is worth a word


def arrival(config: AgentConfig) -> Iterator[Finding]:
    """Of each capture folder that is there; then whether the kernel can watch them all."""
    watched = []
    for index, source in enumerate(_folders(config)):
        if not is_folder(Path(source.path)):  # told elsewhere
            continue
        if _is_remote(source.path):
            yield _polled(f"sources[{index}] arrival", source)
        else:
            watched.append(Path(source.path))
    if watched:
        yield _inotify(watched)


def _folders(config: AgentConfig) -> list[FolderConfig]:
    from agent.config import FolderConfig

    return [source for source in config.sources if isinstance(source, FolderConfig)]


def _is_remote(path: str) -> bool:
    from agent.sources.watch import is_remote

    return is_remote(os.fsencode(path))


def _polled(name: str, source: FolderConfig) -> Finding:
    """What another machine writes into a share makes no event here."""
    detail = f"{source.path} is a network mount: new images are found every {source.rescan_s:g} s (rescan_s)"
    if source.rescan_s > _SLOW_S:
        return Finding(name, "warning", detail, "a smaller rescan_s, or a folder on this machine that is shared")
    return Finding(name, "ok", detail)


def _inotify(roots: list[Path]) -> Finding:
    """One watch a folder: are there enough?"""
    try:
        limit = int(Path("/proc/sys/fs/inotify/max_user_watches").read_text(encoding="ascii"))
        instances = int(Path("/proc/sys/fs/inotify/max_user_instances").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return Finding("inotify", "ok", "limits unknown here; rescan_s finds files without it")
    folders = sum(map(_folders_below, roots))
    detail = f"{folders} folders to watch, {limit} watches and {instances} instances a user"
    state: State = "ok"
    remedy = ""
    if folders > limit * 0.8:
        state = "warning"
        remedy = f"sysctl fs.inotify.max_user_watches={folders * 4}; till then files wait for rescan_s"
    elif instances < 16:
        state, remedy = "warning", "sysctl fs.inotify.max_user_instances=128"
    return Finding("inotify", state, detail, remedy)


def _folders_below(root: Path) -> int:
    count = 0
    for count, _ in enumerate(os.walk(root), 1):  # the count is the result
        if count >= _FOLDERS_LOOKED_AT:
            break
    return count
