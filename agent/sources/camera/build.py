"""From a camera's section of the configuration to its grabber and store."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from agent.clock import Before, Clock
from agent.config import CameraConfig, ResultsConfig
from agent.credentials import secret_path
from agent.errors import UsageError
from agent.health import Health
from agent.sources.camera.grabber import Grabber
from agent.sources.camera.mjpeg import MjpegReader
from agent.sources.camera.process import DriverProcess
from agent.sources.camera.store import FrameStore, Interesting, Keep
from agent.sources.camera.wire import Settings

#: Which library each kind needs, and how to get it. MJPEG needs none.
_NEEDS = {
    "rtsp": ("cv2", "pip install 'weldwatch[camera]'"),
    "file": ("cv2", "pip install 'weldwatch[camera]'"),
    "usb": ("cv2", "pip install 'weldwatch[camera]'"),
    "genicam": ("harvesters", "pip install 'weldwatch[genicam]'"),
}
_ARAVIS = "libaravis-0.8.so.0"


def check_installed(config: CameraConfig) -> None:
    """``UsageError`` where the library for this camera is not installed. Loads none."""
    if config.kind == "aravis":
        try:
            ctypes.CDLL(_ARAVIS)
        except OSError:
            raise UsageError(f"source {config.name}: {_ARAVIS} is not installed; apt install libaravis-0.8-0") from None
    elif config.kind in _NEEDS:
        module, remedy = _NEEDS[config.kind]
        if importlib.util.find_spec(module) is None:
            raise UsageError(f"source {config.name}: {module} is not installed; {remedy}")


def grabber_of(config: CameraConfig) -> Callable[[], Grabber]:
    """Makes the grabber for this camera, with the password as it is by then. ``UsageError`` as ``check_installed``."""
    check_installed(config)

    def make() -> Grabber:
        password = _password(config)
        if config.kind == "mjpeg":
            account = (config.username, password or "") if config.username is not None else None
            return MjpegReader(config.url, config.stall_s, account, config.ca)
        return DriverProcess(
            Settings(
                kind=config.kind,
                target=config.target,
                timeout_s=config.stall_s,
                username=config.username,
                password=password,
                transport=config.transport,
                producer=config.producer,
                newest=not (config.trigger == "continuous" and config.policy == "all"),
            )
        )

    make()  # a password that cannot be read is found out now
    return make


def _password(config: CameraConfig) -> str | None:
    """``UsageError`` where it cannot be had."""
    if config.password_env is not None:
        value = os.environ.get(config.password_env)
        if value is None:
            raise UsageError(f"source {config.name}: password_env: {config.password_env} is not set")
        return value
    if config.password_file is None:
        return None
    try:
        path = secret_path(config.password_file, f"source {config.name}: password_file")
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UsageError(f"source {config.name}: password_file: {config.password_file}: {why}") from None


def folder_of(config: CameraConfig, results: ResultsConfig) -> Path:
    """Where this camera's frames are saved."""
    return Path(config.save) if config.save else Path(results.directory) / "frames" / quote(config.name, safe=" ")


def store_of(
    config: CameraConfig,
    results: ResultsConfig,
    clock: Clock,
    health: Health,
    interesting: Interesting = lambda _begin, _end: (),
    before: Before | None = None,
) -> FrameStore:
    """What saves this camera's frames; ``interesting`` tells which of them are kept longest, ``before`` which are
    old; by default the clock does.
    """
    keep = Keep(days=config.keep_days or results.keep_days, bytes=int(config.keep_gb * 1e9))
    return FrameStore(folder_of(config, results), config.name, config.format, keep, clock, health, interesting, before)
