"""The section of a camera: where it is, how often it is looked at, what becomes of its frames.

Invariants: no secret stands in a ``url``; what the ``url`` names (``kind``) says which driver opens it.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

from msgspec import Meta

from agent.config.section import Seconds, Section, TopicLevel
from agent.errors import ConfigError

Kind = Literal["rtsp", "mjpeg", "file", "usb", "genicam", "aravis"]

Region = Annotated[
    list[Annotated[int, Meta(ge=0, description="a whole number of pixels, from 0")]],
    Meta(min_length=4, max_length=4, description="[x, y, width, height] in pixels"),
]

MIN_SIDE = 16  #: pixels, as agent.image, which is too large to be loaded for this

_URLS = "allowed: rtsp://, rtsps://, http(s):// (MJPEG), usb:0, aravis:<address>, genicam:<serial>, or a video file"
_KINDS: dict[str, Kind] = {
    "rtsp": "rtsp", "rtsps": "rtsp", "http": "mjpeg", "https": "mjpeg", "file": "file", "usb": "usb",
    "genicam": "genicam", "aravis": "aravis",
}  # fmt: skip


class CameraConfig(Section, frozen=True, tag_field="type", tag="camera"):
    """A camera that is asked for frames."""

    name: TopicLevel
    url: Annotated[str, Meta(min_length=1)]
    username: str | None = None
    password_file: str | None = None
    password_env: str | None = None
    transport: Literal["tcp", "udp"] = "tcp"
    ca: str | None = None
    producer: str | None = None
    trigger: Literal["continuous", "interval", "command"] = "continuous"
    fps: Annotated[float, Meta(gt=0, le=1000)] | None = None
    interval_s: Annotated[float, Meta(ge=0.05, le=86_400)] | None = None
    policy: Literal["newest", "all"] = "newest"
    buffer: Annotated[int, Meta(ge=1, le=1000)] = 16
    region: Region | None = None
    stall_s: Annotated[float, Meta(ge=0.5, le=60)] = 2.0
    frozen_s: Seconds = 10.0
    save: str | None = None
    format: Literal["png", "jpeg"] = "png"
    keep_days: Annotated[int, Meta(ge=1)] | None = None
    keep_gb: Annotated[float, Meta(gt=0)] = 20.0

    @property
    def kind(self) -> Kind:
        """What ``url`` names. Only for a checked configuration."""
        scheme, colon, _ = self.url.partition(":")
        return _KINDS[scheme.lower()] if colon and scheme.lower() in _KINDS else (
            "usb" if self.url.startswith("/dev/video") else "file"
        )  # fmt: skip

    @property
    def target(self) -> str:
        """``url`` without its scheme, where the scheme is ours: a path, a device number, an address or a serial."""
        if self.url.startswith("/dev/video"):
            return self.url.removeprefix("/dev/video")
        scheme, colon, rest = self.url.partition(":")
        if colon and scheme.lower() in ("usb", "genicam", "aravis"):
            return rest
        return rest.removeprefix("//") if colon and scheme.lower() == "file" else self.url


def check_camera(source: CameraConfig, file: str, at: str) -> None:
    """What one key alone cannot tell; ``at`` is the key path of this source."""
    _check_url(source, file, at)
    _check_account(source, file, at)
    if source.name in (".", ".."):
        raise ConfigError(file, f"{at}.name", f"found {source.name!r}", "a name that can also be a folder's")
    if source.trigger == "interval" and source.interval_s is None:
        raise ConfigError(file, f"{at}.interval_s", "missing", "trigger: interval needs the seconds between two frames")
    if source.trigger != "interval" and source.interval_s is not None:
        raise ConfigError(file, f"{at}.interval_s", f"found with trigger: {source.trigger}", "set trigger: interval")
    if source.trigger != "continuous" and source.fps is not None:
        raise ConfigError(file, f"{at}.fps", f"found with trigger: {source.trigger}", "only for trigger: continuous")
    if source.region is not None and min(source.region[2:]) < MIN_SIDE:
        allowed = f"[x, y, width, height] in pixels, {MIN_SIDE} wide and high at least"
        raise ConfigError(file, f"{at}.region", f"found {source.region}", allowed)


def _check_url(source: CameraConfig, file: str, at: str) -> None:
    key, scheme = f"{at}.url", source.url.partition(":")[0].lower()
    # The url is repeated in no message: what is wrong with it may be that it holds a password.
    if re.search(r"[\x00-\x1f\x7f]", source.url):
        raise ConfigError(file, key, "found a control character in it", _URLS)
    if "://" in source.url and scheme not in ("rtsp", "rtsps", "http", "https", "file"):
        raise ConfigError(file, key, f"found the scheme {scheme!r}", _URLS)
    if source.kind == "usb" and not re.fullmatch(r"\d{1,3}", source.target):
        raise ConfigError(file, key, f"found {source.url!r}", "usb:0, usb:1, … or /dev/video0, /dev/video1, …")
    if source.kind in ("rtsp", "mjpeg"):
        parts = _split(source.url, file, key)
        if parts.username is not None or parts.password is not None:
            raise ConfigError(file, key, "holds a user name or password", "use username and password_file")
        if not parts.hostname:
            raise ConfigError(file, key, "names no host", "for example rtsp://10.0.0.20/stream1")
    if (source.producer is not None) != (source.kind == "genicam"):
        found = "found without a genicam: url" if source.producer else "missing"
        raise ConfigError(file, f"{at}.producer", found, "the camera maker's .cti file, for a genicam: url")


def _split(url: str, file: str, key: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # the look-up is the check
    except ValueError as error:
        raise ConfigError(file, key, f"not an address: {error}", _URLS) from None
    return parts


def _check_account(source: CameraConfig, file: str, at: str) -> None:
    if source.password_file and source.password_env:
        raise ConfigError(file, f"{at}.password_env", "found together with password_file", "use one or the other")
    secret = "password_file" if source.password_file else "password_env" if source.password_env else None
    if secret and not source.username:
        raise ConfigError(file, f"{at}.{secret}", "found without username", "give both or none")
    if source.username is not None and source.kind not in ("rtsp", "mjpeg"):
        raise ConfigError(file, f"{at}.username", f"found with a {source.kind} camera", "only for rtsp and http")
    if source.ca is not None and not source.url.lower().startswith("https:"):
        raise ConfigError(file, f"{at}.ca", "found without an https:// url", "only for https")
