"""Every path that a configuration names, and what the agent needs of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from agent.config import AgentConfig, CameraConfig, FolderConfig

Need = Literal["read", "write"]
_FILES = ("ca", "cert", "key")


@dataclass(frozen=True)
class Place:
    """``key`` of the configuration, the path as it stands there, and what is done with it."""

    key: str
    path: str
    need: Need


def places(config: AgentConfig) -> Iterator[Place]:
    """All of them; what ``credential:`` names is no path."""
    yield Place("state", config.state, "write")
    yield Place("results.directory", config.results.directory, "write")
    yield from _given("results", config.results, "reviewed")
    for index, source in enumerate(config.sources):
        yield from _source(f"sources[{index}]", source)
    bundle = config.bundle
    if "/" in bundle.initial:
        yield Place("bundle.initial", bundle.initial, "read")
    yield from _given("bundle", bundle, "trusted_keys")
    yield from _given("bundle", bundle, "drop_folder", need="write")
    yield from _given("bundle.remote", bundle.remote, "folder")
    for at, section in _far_ends(config):
        yield from _given(at, section, "password_file", "token_file")
        if section.tls is not None:
            yield from _given(f"{at}.tls", section.tls, *_FILES)


def _source(at: str, source: FolderConfig | CameraConfig) -> Iterator[Place]:
    from agent.config import FolderConfig

    if isinstance(source, FolderConfig):
        moved = source.after != "keep" or source.rejected is not None
        yield Place(f"{at}.path", source.path, "write" if moved else "read")
        yield from _given(at, source, "archive", "rejected", need="write")
        return
    if source.kind == "file":
        yield Place(f"{at}.url", source.target, "read")
    elif source.kind == "usb":
        device = source.target
        yield Place(f"{at}.url", device if "/" in device else f"/dev/video{device}", "write")
    yield from _given(at, source, "save", need="write")
    yield from _given(at, source, "password_file", "ca", "producer")


def _far_ends(config: AgentConfig) -> Iterator[tuple[str, Any]]:
    if config.mqtt is not None:
        yield "mqtt", config.mqtt
        for index, broker in enumerate(config.mqtt.brokers):
            yield f"mqtt.brokers[{index}]", broker
    if config.sparkplug is not None and config.sparkplug.broker is not None:
        yield "sparkplug.broker", config.sparkplug.broker
    if config.webhook is not None:
        yield "webhook", config.webhook


def _given(at: str, section: Any, *keys: str, need: Need = "read") -> Iterator[Place]:
    """Those of ``keys`` that the section has and that are set."""
    for key in keys:
        path = getattr(section, key, None)
        if path is not None:
            yield Place(f"{at}.{key}", path, need)
