"""The webhook sink: each result as one HTTP POST, in order of ``sequence``, at least once.

Invariants
- The cursor moves with a 2xx answer and with nothing else. ``Idempotency-Key`` is the result's id: what comes again
  (an answer was lost, the agent was killed) comes under the same key.
- A request takes ``timeout_s`` at most, from connecting to the end of its answer, however slowly the far end drips; no
  more than 64 KiB of an answer are read. Redirects are not followed.
- What an answer means: 2xx accepted. 400, 413, 415 and 422 speak of this one result: dead letter. 408, 425, 429 and 5xx
  pass: tried again, not before ``Retry-After``; so does 409 (the same key is still being worked on), five times. All
  others speak of the address or the token: ``webhook_denied``, and results are kept.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import MappingProxyType

from agent import __version__
from agent.clock import Clock
from agent.config import TlsConfig, WebhookConfig
from agent.delivery.access import Tls, secret
from agent.errors import RejectError, RetryError, UsageError
from agent.health import Health
from agent.logs import log, printable
from agent.ports import Pace, Stored

_LOG = log("webhook")
_BODY_MAX = 64 << 10  #: bytes of an answer that are read, so that the connection can serve the next request
_THIS_RESULT = {400, 413, 415, 422}
_PASSES = {408, 425, 429}
_TOKEN = {401, 403, 407}
_CONFLICT, _CONFLICTS = 409, 5
_LONGEST_WAIT_S = 3600.0  #: of what ``Retry-After`` may ask for
_CLOSE_S = 1.0
_SAID = 200  #: characters of what the far end says that are told on
_NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class _Answer:
    status: int
    said: str  #: the beginning of the body, one printable line
    retry_after: str | None
    location: str | None


class Webhook:
    """``ports.Sink`` and ``ports.Replaying``. Constructing it connects nothing.

    ``UsageError`` when certificates or the token cannot be read.
    """

    name = "webhook"
    pace = Pace(batch=20)  # what a kill repeats, and what a slow far end holds up a stop with

    def __init__(self, config: WebhookConfig, health: Health, clock: Clock) -> None:
        self._config, self._health, self._clock = config, health, clock
        self._client = _Client(config, health)
        self._not_before = 0.0
        self._conflicts = 0
        self._closed = False

    def open(self, wake: Callable[[], None]) -> None:
        """Nothing to do: a request connects."""

    def close(self) -> None:
        """End a request that waits, and let go of the connection."""
        self._closed = True
        self._client.close()

    def deliver(self, batch: Sequence[Stored]) -> int:
        """Post from the front; how many were answered with 2xx."""
        accepted = 0
        for one in batch:
            try:
                self._post(one)
            except (RetryError, RejectError):
                if accepted == 0:
                    raise
                break
            accepted += 1
        return accepted

    def deliver_again(self, batch: Sequence[Stored]) -> int:
        """``ports.Replaying``: the same, under the same keys."""
        return self.deliver(batch)

    def _post(self, one: Stored) -> None:
        if self._closed:
            raise RetryError("the agent stops")
        if (wait := self._not_before - self._clock.monotonic()) > 0:
            raise RetryError(f"{self._client.where} asked to be left alone for another {wait:.0f} s")
        answer = self._client.request("POST", one.body, {"Idempotency-Key": one.result_id})
        error = self._meaning(answer)
        if error is not None:
            raise error
        self._conflicts = 0
        self._health.over("webhook_denied", f"{self._client.where} takes results again")

    def _meaning(self, answer: _Answer) -> RetryError | RejectError | None:
        """What to do about an answer; None when the result was accepted."""
        status, where = answer.status, self._client.where
        text = f"{where} answers {status}" + (f": {answer.said}" if answer.said else "")
        if 200 <= status < 300:
            return None
        if status == _CONFLICT:
            self._conflicts += 1
            if self._conflicts < _CONFLICTS:
                return RetryError(text)
            self._conflicts = 0
            return RejectError(f"{text} ({_CONFLICTS} times)")
        if status in _THIS_RESULT:
            return RejectError(text)
        if status in _PASSES or status >= 500:
            self._not_before = self._clock.monotonic() + self._asked_for(answer.retry_after)
            return RetryError(text)
        self._client.close()  # the next try reads the token anew
        detail = f"{text}; {_remedy(answer)}"
        if self._health.raise_problem("webhook_denied", detail):
            _LOG.error("webhook_denied: %s; results are kept and tried again", detail)
        return RetryError(detail)

    def _asked_for(self, retry_after: str | None) -> float:
        """Seconds that ``Retry-After`` asks to wait (RFC 9110, 10.2.3: seconds or a date); 0 where it is neither."""
        if not retry_after:
            return 0.0
        if retry_after.isdecimal() and retry_after.isascii():
            return min(float(retry_after[:9]), _LONGEST_WAIT_S)
        try:
            seconds = (parsedate_to_datetime(retry_after) - self._clock.now()).total_seconds()
        except (ValueError, TypeError, OverflowError):  # no date; TypeError: one without a zone
            return 0.0
        return min(max(seconds, 0.0), _LONGEST_WAIT_S)


def _remedy(answer: _Answer) -> str:
    if answer.status in _TOKEN:
        return "check the token (webhook.token_file or webhook.token_env) and what it allows"
    if 300 <= answer.status < 400:
        to = f" to {answer.location!r}" if answer.location else ""
        return f"redirects{to} are not followed, write the final address into webhook.url"
    return "check webhook.url"


class _Client:
    """One connection, kept alive. ``request`` belongs to one thread; ``close`` may come from any, and ends it."""

    def __init__(self, config: WebhookConfig, health: Health | None = None) -> None:
        self._config, target = config, config.target
        self._tls = Tls(config.tls or TlsConfig(), "webhook", health) if target.scheme == "https" else None
        self._host = target.hostname or ""
        self._port = target.port or (443 if self._tls else 80)
        self._path = (target.path or "/") + (f"?{target.query}" if target.query else "")
        self.where = f"{target.scheme}://{self._host}:{self._port}"  #: for people; path and query may hold a secret
        self._headers = self._authorization()
        self._requesting, self._lock = threading.Lock(), threading.Lock()
        self._wire: socket.socket | None = None
        self._connection: http.client.HTTPConnection | None = None

    def _authorization(self) -> dict[str, str]:
        """``UsageError`` when the token cannot be read, or cannot stand in a header."""
        token = secret(self._config.token_file, self._config.token_env, "webhook", "token")
        if token is None:
            return {}
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise UsageError("webhook: the token must be printable ASCII without spaces, and not empty")
        return {"Authorization": f"Bearer {token}"}

    def request(self, method: str, body: bytes | None = None, headers: Mapping[str, str] = _NONE) -> _Answer:
        """One request and its answer. ``RetryError`` when there is none in time, with the cause."""
        late = threading.Event()

        def time_is_up() -> None:
            late.set()
            self._cut()

        watchdog = threading.Timer(self._config.timeout_s, time_is_up)
        watchdog.daemon = True
        with self._requesting:
            watchdog.start()
            try:
                return self._try(method, body, headers, late)
            except (OSError, http.client.HTTPException, UsageError) as error:
                self._let_go()
                raise RetryError(self._cause(error, late.is_set())) from None
            finally:
                watchdog.cancel()

    def _try(self, method: str, body: bytes | None, headers: Mapping[str, str], late: threading.Event) -> _Answer:
        if self._connection is not None:
            try:
                return self._exchange(self._connection, method, body, headers)
            except (OSError, http.client.HTTPException):
                self._let_go()  # closed by the far end while it was idle, which is no failure yet
                if late.is_set():
                    raise
        return self._exchange(self._connect(late), method, body, headers)

    def _connect(self, late: threading.Event) -> http.client.HTTPConnection:
        self._headers = self._authorization()
        wire = socket.create_connection((self._host, self._port), self._config.timeout_s)
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            wire = self._tls.context().wrap_socket(wire, server_hostname=self._host, do_handshake_on_connect=False)
        with self._lock:
            self._wire = wire
        if late.is_set():
            raise TimeoutError
        if isinstance(wire, ssl.SSLSocket):
            wire.do_handshake()
        connection = http.client.HTTPConnection(self._host, self._port)
        connection.default_port = 443 if self._tls else 80
        connection.auto_open = 0  # it would connect by itself, and without TLS
        connection.sock = wire
        self._connection = connection
        return connection

    def _exchange(
        self, connection: http.client.HTTPConnection, method: str, body: bytes | None, headers: Mapping[str, str]
    ) -> _Answer:
        always = {"Content-Type": "application/json", "User-Agent": f"weldwatch/{__version__}", **self._headers}
        connection.request(method, self._path, body, {**always, **headers})
        response = connection.getresponse()
        try:
            text = response.read(_BODY_MAX)
        except (OSError, http.client.HTTPException):
            text = b""  # the status has been said, and that is what counts
        whole = response.isclosed()
        response.close()
        if not whole or connection.sock is None:  # of no use for a next request
            self._let_go()
        location = response.getheader("Location")
        return _Answer(
            response.status,
            printable(" ".join(text[:_SAID].decode("utf-8", "replace").split())),
            response.getheader("Retry-After"),
            location[:_SAID] if location else None,
        )

    def _cause(self, error: Exception, late: bool) -> str:
        """Why there is no answer."""
        where = self.where
        if isinstance(error, UsageError):
            return str(error)
        if late or isinstance(error, TimeoutError):
            return f"{where} gave no answer within webhook.timeout_s ({self._config.timeout_s:g} s)"
        if isinstance(error, ConnectionRefusedError):
            return f"{where} has nothing listening there; is the server running, is the port right?"
        if isinstance(error, ConnectionError):  # http.client.RemoteDisconnected is one
            return f"{where} closed the connection instead of answering; is it http or https, is the port right?"
        if isinstance(error, http.client.HTTPException):
            return f"{where} does not answer in HTTP ({type(error).__name__}); check webhook.url"
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"{where} has a certificate that is not trusted: {error.verify_message}; check webhook.tls.ca"
        if isinstance(error, ssl.SSLError):
            return f"{where} fails the TLS handshake: {error.reason or error}; check webhook.url and webhook.tls"
        if isinstance(error, socket.gaierror):
            return f"{where} is a name that nobody knows; check webhook.url and the name server"
        return f"{where} cannot be reached: {getattr(error, 'strerror', None) or error}"

    def close(self) -> None:
        """End a request that waits, and let go of the connection."""
        self._cut()
        if self._requesting.acquire(timeout=_CLOSE_S):  # a request that still connects keeps it until it gives up
            try:
                self._let_go()
            finally:
                self._requesting.release()

    def _cut(self) -> None:
        with self._lock:
            if self._wire is not None:
                try:
                    # Not SSLSocket's own shutdown, which takes the TLS state away from the thread that reads.
                    socket.socket.shutdown(self._wire, socket.SHUT_RDWR)
                except OSError:
                    pass  # it is gone already, which is what we want

    def _let_go(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            if self._wire is not None:
                self._wire.close()
            self._connection = self._wire = None


def probe(config: WebhookConfig) -> str | None:
    """Ask with HEAD, which changes nothing; what is wrong, or None. Whether a POST is taken is not tried."""
    try:
        client = _Client(config)
        answer = client.request("HEAD")
    except (RetryError, UsageError) as error:
        return str(error)
    client.close()
    if answer.status in _TOKEN or 300 <= answer.status < 400:
        return f"{client.where} answers {answer.status}; {_remedy(answer)}"
    return None
