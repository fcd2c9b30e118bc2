"""The one door to OpenCV: RTSP, video files, USB cameras. Loaded in the driver process only.

Invariants: opening ends after ``timeout_s`` (FFmpeg's own default is 30 s and more), reading is ended by the agent;
FFmpeg opens nothing but what the ``url`` says (a playlist cannot name local files); a gray picture stays gray.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import numpy as np

from agent.sources.camera.freshness import Freshness
from agent.sources.camera.wire import KEYFRAME_S, DriverError, Settings

# Read by the library while it is loaded.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2  # after the settings above

_PORTS = {"rtsp": 554, "rtsps": 322}
_FILM_FPS = 25.0  #: of a file that does not say


class OpenCvStream:
    """A ``wire.Stream`` over ``cv2.VideoCapture``."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._number = settings, 0
        self._capture = {"rtsp": _rtsp, "file": _film, "usb": _device}[settings.kind](settings)
        self._fresh = Freshness() if settings.kind == "rtsp" and settings.newest else None
        self._fps = 0.0
        if settings.kind == "file":
            fps = float(self._capture.get(cv2.CAP_PROP_FPS))
            self._fps = fps if 0 < fps <= 1000 else _FILM_FPS
        self._began = time.monotonic()

    def read(self) -> tuple[np.ndarray, float | None] | None:
        """As ``wire.Stream``."""
        if self._settings.kind == "file":
            return self._film_frame()
        while True:
            good, frame = self._capture.read()
            if not good or frame is None:
                raise DriverError("the stream broke off")
            if self._fresh is None or self._fresh(time.monotonic(), self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3):
                return _plain(frame), None

    def _film_frame(self) -> tuple[np.ndarray, float] | None:
        good, frame = self._capture.read()
        if not good or frame is None:
            return None
        stream_s = self._number / self._fps
        self._number += 1
        if self._settings.newest:
            time.sleep(max(0.0, self._began + stream_s - time.monotonic()))
        return _plain(frame), stream_s

    def close(self) -> None:
        """As ``wire.Stream``."""
        self._capture.release()


def _plain(frame: np.ndarray) -> np.ndarray:
    """BGR to RGB, or to gray where there is no colour in it."""
    if frame.ndim == 2:
        return frame
    blue, green, red = frame[..., 0], frame[..., 1], frame[..., 2]
    if np.array_equal(blue, green) and np.array_equal(green, red):
        return green
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))


def _rtsp(settings: Settings) -> cv2.VideoCapture:
    parts = urlsplit(settings.target)
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme.lower()]
    try:  # tells no route from no stream, and ends in time where FFmpeg's look-up of names would not
        socket.create_connection((host, port), settings.timeout_s).close()
    except OSError as error:
        raise DriverError(f"{host}:{port}: {error.strerror or error}") from None
    if settings.username is not None:
        account = f"{quote(settings.username, safe='')}:{quote(settings.password or '', safe='')}@"
        parts = parts._replace(netloc=account + parts.netloc)
    options = {
        "rtsp_transport": settings.transport,
        "protocol_whitelist": "rtsp,rtsps,rtp,srtp,tls,tcp,udp",
        "analyzeduration": "200000",  # µs; FFmpeg would look at a second of film before it gives the first frame
    }
    begin = time.monotonic()
    capture = _ffmpeg(urlunsplit(parts), settings, options)
    if not capture.isOpened():
        if time.monotonic() - begin > 0.9 * settings.timeout_s:
            raise DriverError(f"{host}:{port} takes the connection, but does not answer for {settings.timeout_s:g} s")
        raise DriverError(f"{host}:{port} answers, but gives no stream; check path, username and password")
    return capture


def _film(settings: Settings) -> cv2.VideoCapture:
    path = Path(settings.target)
    try:
        path.open("rb").close()
    except OSError as error:
        raise DriverError(f"{path}: {error.strerror}") from None
    capture = _ffmpeg(str(path), settings, {"protocol_whitelist": "file"})
    if not capture.isOpened():
        raise DriverError(f"{path}: not a video that can be read")
    return capture


def _ffmpeg(source: str, settings: Settings, options: dict[str, str]) -> cv2.VideoCapture:
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "|".join(f"{key};{value}" for key, value in options.items())
    timeout = int(settings.timeout_s * 1000)
    wait = int(KEYFRAME_S * 1000)  # after that the agent ends us, for later frames much sooner
    wanted = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, timeout, cv2.CAP_PROP_READ_TIMEOUT_MSEC, wait]
    return cv2.VideoCapture(source, cv2.CAP_FFMPEG, wanted)


def _device(settings: Settings) -> cv2.VideoCapture:
    path = Path(f"/dev/video{settings.target}")
    if not path.exists():
        raise DriverError(f"{path}: no such device; is the camera plugged in?")
    if not os.access(path, os.R_OK | os.W_OK):
        raise DriverError(f"{path}: no permission; add the agent's user to the group video")
    capture = cv2.VideoCapture(int(settings.target), cv2.CAP_V4L2)
    if not capture.isOpened():
        raise DriverError(f"{path}: cannot be opened; another program may hold it")
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return capture
