"""MJPEG over HTTP: ``multipart/x-mixed-replace``, one JPEG a part, read by ourselves.

OpenCV hands on a frame that was cut in its middle as if it were whole; here a part is a frame only when it lies between
two boundaries, or has all the bytes that it announced and the end of a JPEG there. Whether it is one the decoder says.

Invariants: no read waits longer than ``timeout_s``, and a frame must be whole in that time; parts and headers have
limits; redirects and proxies are not followed; the password goes to the configured host only.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from email.message import Message
from typing import Any

from agent.errors import RetryError
from agent.sources.camera.grabber import Grab

_CLOSE_S = 0.5
MAX_PART = 32 * 1024 * 1024
MAX_HEAD = 16 * 1024
_END_OF_IMAGE = b"\xff\xd9"
_CHUNK = 64 * 1024
_TROUBLE = (OSError, http.client.HTTPException)


class MjpegReader:
    """``agent.sources.camera.grabber.Grabber`` for ``http`` and ``https``."""

    waits = False

    def __init__(self, url: str, timeout_s: float, account: tuple[str, str] | None, ca: str | None) -> None:
        self._url, self._timeout_s = url, timeout_s
        self._account, self._ca = account, ca
        self._busy = threading.Lock()  # held by ``open`` and ``read``: the response is theirs
        self._response: Any = None
        self._lock = threading.Lock()  # guards the two below against ``close``
        self._line: socket.socket | None = None  #: the response's connection, to end it from another thread
        self._closed = False
        self._buffer, self._boundary = bytearray(), b""

    def open(self) -> None:
        """As ``Grabber``."""
        with self._busy:
            self._hang_up()
            self._open()

    def read(self) -> Grab:
        """As ``Grabber``; never None."""
        deadline = time.monotonic() + self._timeout_s
        with self._busy:
            try:
                while (data := self._part(deadline)) is None:
                    pass
            except (*_TROUBLE, RetryError) as error:
                self._hang_up()
                raise RetryError(_reason(error)) from None
        now = time.monotonic()
        return Grab(now, now, data=data)

    def close(self) -> None:
        """As ``Grabber``. An ``open`` that waits for an answer is left to its own time limit."""
        with self._lock:
            self._closed = True
            if self._line is not None:
                with contextlib.suppress(OSError):  # the camera has closed it already
                    self._line.shutdown(socket.SHUT_RDWR)
        if self._busy.acquire(timeout=_CLOSE_S):
            self._hang_up()
            self._busy.release()

    def _open(self) -> None:
        try:
            self._response = response = self._opener().open(self._url, timeout=self._timeout_s)
        except urllib.error.HTTPError as error:
            with error:
                raise RetryError(_refusal(error)) from None
        except (*_TROUBLE, ValueError) as error:
            raise RetryError(_reason(error)) from None
        with self._lock:
            closed = self._closed
            self._line = socket.socket(fileno=os.dup(response.fileno()))
        self._boundary, self._buffer = _boundary(response.headers), bytearray()
        if closed or not self._boundary:
            self._hang_up()
            kind = response.headers.get_content_type()
            raise RetryError(f"the address answers {kind}, not multipart: give the one of the camera's MJPEG stream")

    def _hang_up(self) -> None:
        """End the connection."""
        with self._lock:
            line, self._line = self._line, None
        if line is not None:
            line.close()
        response, self._response = self._response, None
        if response is not None:
            with contextlib.suppress(*_TROUBLE):  # nothing is left to be said to it
                response.close()

    def _opener(self) -> urllib.request.OpenerDirector:
        opener = urllib.request.OpenerDirector()
        handlers: list[urllib.request.BaseHandler] = [
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=self._ca)),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPDefaultErrorHandler(),
        ]
        if self._account is not None:
            passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
            passwords.add_password(None, self._url, *self._account)
            handlers += [
                urllib.request.HTTPDigestAuthHandler(passwords),
                urllib.request.HTTPBasicAuthHandler(passwords),
            ]
        for handler in handlers:
            opener.add_handler(handler)
        return opener

    def _part(self, deadline: float) -> bytes | None:
        """The body of the next part; None where it is no frame (a cut part, a preamble)."""
        self._until(self._boundary, deadline, MAX_PART)
        head = self._until(b"\r\n\r\n", deadline, MAX_HEAD)
        length = re.search(rb"(?im)^content-length:[ \t]*(\d{1,9})[ \t]*\r?$", head)
        if length is None:
            return _trimmed(self._peek(self._boundary, deadline))
        announced = int(length[1])
        if announced > MAX_PART:
            raise RetryError(f"a part of {announced} bytes, more than {MAX_PART}")
        while len(self._buffer) < announced:
            self._more(deadline)
        # The next boundary may come only with the next frame: one that ends as a JPEG does need not wait for it.
        if not self._buffer.endswith(_END_OF_IMAGE, 0, announced) and not self._boundary_at(announced, deadline):
            return None  # more or fewer bytes than announced: look for the next boundary from here on
        data = bytes(memoryview(self._buffer)[:announced])
        del self._buffer[:announced]
        return data

    def _boundary_at(self, place: int, deadline: float) -> bool:
        """Whether a boundary follows there, perhaps after a line end."""
        while True:
            after = bytes(self._buffer[place : place + 2 + len(self._boundary)])
            after = after.removeprefix(b"\r").removeprefix(b"\n")
            if after.startswith(self._boundary):
                return True
            if not self._boundary.startswith(after):
                return False
            self._more(deadline)

    def _until(self, mark: bytes, deadline: float, most: int) -> bytes:
        """What stands before ``mark``; both are taken from the buffer."""
        data = self._peek(mark, deadline, most)
        del self._buffer[: len(data) + len(mark)]
        return data

    def _peek(self, mark: bytes, deadline: float, most: int = MAX_PART) -> bytes:
        """What stands before ``mark``, which must come in time and within ``most`` bytes; nothing is taken."""
        looked = 0
        while (at := self._buffer.find(mark, looked)) < 0:
            looked = max(0, len(self._buffer) - len(mark) + 1)
            if looked > most:
                raise RetryError(f"not one whole frame within {most} bytes: not an MJPEG stream?")
            self._more(deadline)
        return bytes(self._buffer[:at])

    def _more(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise RetryError(f"no whole frame for {self._timeout_s:g} s")
        response = self._response
        data = response.read1(_CHUNK) if response is not None else b""
        if not data:
            raise RetryError("the stream broke off")
        self._buffer += data


def _boundary(headers: Message) -> bytes:
    """The boundary with its two dashes; empty where the answer is no multipart.

    Cameras disagree on whether the parameter includes the dashes (RFC 2046, 5.1.1 says not).
    """
    if headers.get_content_maintype() != "multipart":
        return b""
    named = str(headers.get_param("boundary") or "").encode("latin-1", "replace")
    return b"--" + named.removeprefix(b"--") if 0 < len(named) <= 200 else b""


def _trimmed(data: bytes) -> bytes:
    """Without the line end that belongs to the boundary."""
    return data.removesuffix(b"\n").removesuffix(b"\r")


def _refusal(error: urllib.error.HTTPError) -> str:
    if error.code in (401, 403):
        return f"the camera refuses user name or password ({error.code}); set username and password_file"
    if 300 <= error.code < 400:
        return f"the camera sends us elsewhere ({error.code}); give that address: {error.headers.get('Location', '')!r}"
    return f"the camera answers {error.code} {error.reason}; is the path of the url right?"


def _reason(error: BaseException) -> str:
    """One line, whatever raised it."""
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException):
        error = error.reason
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}; set ca to its authority's"
    if isinstance(error, TimeoutError):
        return "the camera does not answer in time"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
