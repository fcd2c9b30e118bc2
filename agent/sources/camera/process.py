"""A driver in a process of its own, seen from the agent: the ``Grabber`` over ``child``.

Invariants: no call takes longer than its deadline, whatever the library does: a driver that does not answer is killed;
one that crashes is a ``RetryError`` like any other. The password goes through a pipe, never onto a command line.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from fcntl import F_SETFL, fcntl
from typing import NoReturn

import numpy as np

from agent.errors import RetryError
from agent.sources.camera.grabber import Grab
from agent.sources.camera.wire import END, ERROR, FRAME, HEAD, KEYFRAME_S, MAX_PIXELS, OPENED, Settings

START_S = 15.0  #: to load the library on a slow and busy machine
SLACK_S = 1.0  #: beyond the driver's own time limit
MAX_TEXT = 4096
_F_SETPIPE_SZ = 1031  #: from linux/fcntl.h; Python 3.10 has it only where it was built so
_PIPE = 1 << 20
Head = tuple[bytes, float, float, int, int, int, int]


class DriverProcess:
    """``agent.sources.camera.grabber.Grabber`` for RTSP, files, USB, GenICam and Aravis."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.waits = settings.kind == "file" and not settings.newest
        self._busy = threading.Lock()  # held by ``open`` and ``read``: the pipes are theirs
        self._lock = threading.Lock()  # guards the two below against ``close``
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._first = True

    def open(self) -> None:
        """As ``Grabber``. The child stays from one vain attempt to the next, and is new after every stream."""
        with self._busy:
            self._open()

    def read(self) -> Grab | None:
        """As ``Grabber``."""
        with self._busy:
            return self._read()

    def _open(self) -> None:
        deadline = time.monotonic() + 2 * self._settings.timeout_s + SLACK_S
        if self._process is None:
            self._start()
            deadline += START_S
        self._order("open")
        kind, _, body = self._message(deadline, "the driver does not answer; its process was ended")
        self._first = True
        if kind == ERROR:
            raise RetryError(bytes(body).decode(errors="replace"))
        if kind != OPENED:
            self._fail("the driver process speaks out of turn")

    def _read(self) -> Grab | None:
        if self._process is None:
            raise RetryError("not open")
        seconds = KEYFRAME_S if self._first else self._settings.timeout_s
        deadline = None if self._settings.kind == "file" else time.monotonic() + seconds
        kind, head, body = self._message(deadline, f"no frame for {seconds:g} s")
        self._first = False
        if kind == FRAME:
            _, at, stream_s, height, width, channels, _ = head
            pixels = np.frombuffer(body, np.uint8)
            pixels = pixels.reshape((height, width) if channels == 1 else (height, width, channels))
            return Grab(at, stream_s, pixels=pixels)
        if kind != END:
            self._fail(bytes(body).decode(errors="replace"))
        self._end()
        return None

    def close(self) -> None:
        """As ``Grabber``: kills the child, which ends a read that waits."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()
        if self._busy.acquire(timeout=SLACK_S):  # whoever waited has seen the end, or nobody did
            self._end()
            self._busy.release()

    def _start(self) -> None:
        command = [sys.executable, "-I", "-m", "agent.sources.camera.child"]
        with self._lock:
            if self._closed:
                raise RetryError("closed")
            try:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
                )
            except OSError as error:
                raise RetryError(f"cannot start the driver process: {error.strerror or error}") from None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):  # a larger pipe is only faster
            fcntl(self._process.stdout, _F_SETPIPE_SZ, _PIPE)
        fcntl(self._process.stdout, F_SETFL, os.O_NONBLOCK)
        self._order(self._settings.plain())

    def _order(self, what: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(what).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            self._fail(self._how_it_ended())

    def _message(self, deadline: float | None, late: str) -> tuple[bytes, Head, memoryview]:
        """Kind, head and body of what the child says next; ``late`` is why it is ended when that takes too long."""
        head: Head = HEAD.unpack(self._bytes(HEAD.size, deadline, late))
        length = head[6]
        if length > (3 * MAX_PIXELS if head[0] == FRAME else MAX_TEXT):
            self._fail("the driver process speaks nonsense")
        return head[0], head, self._bytes(length, deadline, late)

    def _bytes(self, count: int, deadline: float | None, late: str) -> memoryview:
        """So many bytes from the child, read once, into the place where they stay."""
        assert self._process is not None
        assert self._process.stdout is not None
        place, got, fd = memoryview(bytearray(count)), 0, self._process.stdout.fileno()
        waiting = select.poll()
        waiting.register(fd, select.POLLIN)
        while got < count:
            left = None if deadline is None else deadline - time.monotonic()
            if (left is not None and left <= 0) or not waiting.poll(None if left is None else left * 1000):
                self._fail(late)
            try:
                part = os.readv(fd, [place[got:]])
            except BlockingIOError:
                continue
            if not part:
                self._fail(self._how_it_ended())
            got += part
        return place

    def _how_it_ended(self) -> str:
        assert self._process is not None
        try:
            code = self._process.wait(SLACK_S)
        except subprocess.TimeoutExpired:
            return "the driver process fell silent"
        return f"the driver process ended by {signal.Signals(-code).name if code < 0 else f'itself ({code})'}"

    def _fail(self, why: str) -> NoReturn:
        self._end()
        raise RetryError(why)

    def _end(self) -> None:
        """Kill and bury the child."""
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # what could not be said to it
                pipe.close()
