"""The driver process: opens a camera when told to and passes its frames on. See ``wire`` for what is said.

A process of its own, because camera libraries hang in calls that nothing ends, crash on what they receive, and keep
settings for a whole process. The agent ends it by killing it; should the agent be gone, the end of stdin ends it.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import BinaryIO

import numpy as np

from agent.sources.camera.wire import END, ERROR, FRAME, HEAD, MAX_PIXELS, OPENED, DriverError, Settings, Stream


def main() -> None:
    """Serve until stdin ends. The real stdout is kept for messages: what a library prints must not get between."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the agent, which ends us in its order of stop
        signal.signal(number, signal.SIG_IGN)
    with os.fdopen(os.dup(1), "wb", buffering=0) as out:
        os.dup2(2, 1)
        settings = Settings(**json.loads(sys.stdin.buffer.readline()))
        serve(settings, orders(sys.stdin.buffer), out)
    os._exit(0)  # libraries' own threads and exit handlers are not waited for


def orders(stdin: BinaryIO) -> queue.SimpleQueue[str]:
    """What stdin says, read aside, so that its end is noticed within a call that hangs."""
    said: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in stdin:
            said.put(json.loads(line))
        os._exit(0)  # the agent is gone; nothing here is worth an orderly end

    threading.Thread(target=listen, name="orders", daemon=True).start()
    return said


def serve(settings: Settings, said: queue.SimpleQueue[str], out: BinaryIO) -> None:
    """Connect at each order until that succeeds; pass on frames until the stream breaks off or ends.

    Then the process is done: a library that has lost its camera takes many seconds to close it, and a new process for
    a new connection inherits nothing from the broken one.
    """
    streaming = False
    while not streaming and said.get() == "open":
        try:
            stream = driver(settings.kind)(settings)
            streaming = True
            pass_on(stream, out)
        except DriverError as error:
            send(out, ERROR, str(error).encode())
        except Exception as error:  # noqa: BLE001  # a library's own: told to the agent, which says it and tries again
            send(out, ERROR, f"{type(error).__name__}: {' '.join(str(error).split())}".encode())


def driver(kind: str) -> Callable[[Settings], Stream]:
    """The library that this camera needs, loaded now."""
    if kind == "genicam":
        from agent.sources.camera import genicam

        return genicam.GenicamStream
    if kind == "aravis":
        from agent.sources.camera import aravis

        return aravis.AravisStream
    from agent.sources.camera import opencv

    return opencv.OpenCvStream


def pass_on(stream: Stream, out: BinaryIO) -> None:
    """Frames, one after the other; a slow reader holds this up, and with it a file."""
    send(out, OPENED)
    while (got := stream.read()) is not None:
        pixels, stream_s = got
        at = time.monotonic()
        if pixels.shape[0] * pixels.shape[1] > MAX_PIXELS:
            raise DriverError(f"{pixels.shape[1]}×{pixels.shape[0]} is more than {MAX_PIXELS} pixels")
        send(out, FRAME, np.ascontiguousarray(pixels).data, at, at if stream_s is None else stream_s, pixels.shape)
    send(out, END)


def send(
    out: BinaryIO,
    kind: bytes,
    body: bytes | memoryview = b"",
    at: float = 0.0,
    stream_s: float = 0.0,
    shape: tuple[int, ...] = (0, 0),
) -> None:
    """One message, whole."""
    body = memoryview(body).cast("B")
    channels = shape[2] if len(shape) == 3 else 1
    rest = memoryview(HEAD.pack(kind, at, stream_s, shape[0], shape[1], channels, len(body)))
    for part in (rest, body):
        sent = 0
        while sent < len(part):
            sent += out.write(part[sent:]) or 0


if __name__ == "__main__":
    main()
