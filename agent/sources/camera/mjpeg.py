"""MJPEG over HTTP: ``multipart/x-mixed-replace``, one JPEG a part, read by ourselves.

OpenCV hands on a frame that was cut in its middle as if it were whole; here a part is a frame only when it lies between
two boundaries, or has all the bytes that it announced and a boundary after them. Whether it is a whole JPEG the decoder
says.

Invariants: no read waits longer than ``timeout_s``, and a frame must be whole in that time; parts and headers have
limits; redirects and proxies are not followed; the password goes to the configured host only.
"""

from __future__ import annotations

import http.client
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

MAX_PART = 32 * 1024 * 1024
MAX_HEAD = 16 * 1024
_CHUNK = 64 * 1024
_TROUBLE = (OSError, http.client.HTTPException)


class MjpegReader:
    """``agent.sources.camera.grabber.Grabber`` for ``http`` and ``https``."""

    waits = False

    def __init__(self, url: str, timeout_s: float, account: tuple[str, str] | None, ca: str | None) -> None:
        self._url, self._timeout_s = url, timeout_s
        self._account, self._ca = account, ca
        self._lock = threading.Lock()  # guards the two below
        self._response: Any = None
        self._closed = False
        self._buffer, self._boundary = bytearray(), b""

    def open(self) -> None:
        """As ``Grabber``."""
        self._hang_up()
        try:
            response = self._opener().open(self._url, timeout=self._timeout_s)
        except urllib.error.HTTPError as error:
            with error:
                raise RetryError(_refusal(error)) from None
        except (*_TROUBLE, ValueError) as error:
            raise RetryError(_reason(error)) from None
        with self._lock:
            self._response = response
            closed = self._closed
        if closed:
            self._hang_up()
            raise RetryError("closed")
        self._boundary = _boundary(response.headers)
        self._buffer = bytearray()
        if not self._boundary:
            kind = response.headers.get_content_type()
            self._hang_up()
            raise RetryError(f"the address answers {kind}, not multipart: give the one of the camera's MJPEG stream")

    def read(self) -> Grab:
        """As ``Grabber``; never None."""
        deadline = time.monotonic() + self._timeout_s
        try:
            while True:
                data = self._part(deadline)
                if data is not None:
                    now = time.monotonic()
                    return Grab(now, now, data=data)
        except _TROUBLE as error:
            self._hang_up()
            raise RetryError(_reason(error)) from None
        except RetryError:
            self._hang_up()
            raise

    def close(self) -> None:
        """As ``Grabber``."""
        with self._lock:
            self._closed = True
        self._hang_up()

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

    def _hang_up(self) -> None:
        """End the connection; a read in another thread ends with it."""
        with self._lock:
            response, self._response = self._response, None
        if response is None:
            return
        try:
            fd = response.fileno()
            with socket.socket(fileno=socket.dup(fd)) as twin:
                twin.shutdown(socket.SHUT_RDWR)
        except (OSError, ValueError):
            pass  # it is closed already
        try:
            response.close()
        except _TROUBLE:
            pass  # nothing is left to be said to it

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
        while len(self._buffer) < announced + 4 + len(self._boundary):
            self._more(deadline)
        after = bytes(self._buffer[announced : announced + 4 + len(self._boundary)])
        if self._boundary not in after:
            return None  # more or fewer bytes than announced: look for the next boundary from here on
        data = bytes(self._buffer[:announced])
        del self._buffer[:announced]
        return data

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
