"""The ``bundle`` section: which bundle judges, what it has to show first, and by what ways it may come."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta

from agent.config.section import Section
from agent.errors import ConfigError


class RemoteConfig(Section, frozen=True):
    """Where the command ``bundle-install`` may take bundles from. Nothing is allowed by default."""

    folder: str | None = None  #: files below it
    addresses: tuple[str, ...] = ()  #: http(s); one that ends in '/' stands for all below it
    max_mb: Annotated[int, Meta(ge=1, le=1024)] = 256
    timeout_s: Annotated[float, Meta(gt=0, le=86_400)] = 300.0  #: for a whole download


class BundleConfig(Section, frozen=True):
    """Which bundle judges until the store has an active one, and on what device."""

    initial: Annotated[str, Meta(min_length=1)] = "weld-demo"
    device: Literal["auto", "cpu", "openvino", "cuda", "tensorrt"] = "auto"
    trusted_keys: str | None = None  #: folder of public keys; with it, a bundle that none of them signed is refused
    budget_ms: Annotated[float, Meta(gt=0)] | None = None  #: slowest a frame may be judged in the self-test
    drop_folder: str | None = None  #: what is put there is installed and activated, if a trusted key signed it
    remote: RemoteConfig = RemoteConfig()


def check_bundle(bundle: BundleConfig, file: str) -> None:
    """What one key alone cannot tell."""
    remote = bundle.remote
    ways = {
        "bundle.drop_folder": bundle.drop_folder,
        "bundle.remote.folder": remote.folder,
        "bundle.remote.addresses": remote.addresses,
    }
    for key, value in ways.items():
        if value and bundle.trusted_keys is None:
            raise ConfigError(
                file, key, "found without bundle.trusted_keys", "what comes this way must be signed: name the keys"
            )
    for number, address in enumerate(remote.addresses):
        if not is_address(address):
            wanted = "an http(s) address such as https://models.example/station/, without user, query or '..'"
            raise ConfigError(file, f"bundle.remote.addresses[{number}]", f"found {address!r}", wanted)


def is_address(url: str) -> bool:
    """Whether a URL is one that says plainly where it leads."""
    if not url.isascii() or not url.isprintable() or any(c in url for c in " \\@?#%") or ".." in url:
        return False
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # the look-up is the check
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.path.startswith("/")


def allowed(url: str, addresses: tuple[str, ...]) -> bool:
    """Whether ``url`` is one of ``addresses``, or lies below one that ends in '/'."""
    if not is_address(url):
        return False
    for address in addresses:
        here, there = urlsplit(address), urlsplit(url)
        same = (here.scheme, here.hostname, here.port) == (there.scheme, there.hostname, there.port)
        below = here.path.endswith("/") and there.path.startswith(here.path)
        if same and (there.path == here.path or below):
            return True
    return False
