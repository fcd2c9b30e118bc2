"""Bundles that a command names: a file below a configured folder, or an address of a configured list.

Invariants
- Only a bundle that a trusted key has signed is taken, whatever else is configured; without trusted keys nothing is.
- A path is walked component by component without following a link, and only a regular file is opened.
- Nobody is asked but the addresses listed, also after a redirect; proxies of the environment are not used. A body
  ends at ``max_mb``, a silence after 15 s, all of it (redirects, handshakes, headers) at ``timeout_s``, and the
  certificate is checked.
"""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from typing import IO, Any, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import urljoin
from urllib.request import OpenerDirector

from agent.app.bundles.connecting import Deadline, Http, Https
from agent.bundle.archive import is_plain_path
from agent.config import BundleConfig
from agent.config.bundle import allowed
from agent.errors import BundleError
from agent.logs import printable
from agent.model.store import Store, pour
from agent.sources.files import NotAFileError, folder_fd, regular_file, split

_SILENCE_S = 15.0  #: a server that says nothing for so long is given up
_CHUNK = 1 << 16


class Remote:
    """Takes what a command names into the store."""

    def __init__(self, config: BundleConfig, store: Store) -> None:
        self._config, self._store = config, store

    def take(self, path: str | None, url: str | None, sha256: str | None) -> str:
        """Install it: its name. ``BundleError`` says what is wrong with the wish or with what came of it."""
        if self._config.trusted_keys is None:
            raise BundleError("bundle.trusted_keys is not set; what a command names must be signed by a trusted key")
        if (path is None) == (url is None):
            raise BundleError("give path or url, one of them")
        return self._from_folder(path, sha256) if path is not None else self._from_address(str(url), sha256)

    def _receive(self, fill: Callable[[BinaryIO], None], origin: str, sha256: str | None) -> str:
        keys = Path(self._config.trusted_keys or "")
        return self._store.receive(fill, origin, keys, self._config.initial, sha256)

    def _from_folder(self, path: str, sha256: str | None) -> str:
        folder = self._config.remote.folder
        if folder is None:
            raise BundleError("bundle.remote.folder is not set; no path is taken from a command")
        shown = printable(path)[:200]
        if not is_plain_path(path):
            raise BundleError(f"{shown}: give a path relative to {folder}, without '..'")
        below, name = split(os.fsencode(path))
        try:
            with (
                folder_fd(os.fsencode(folder), below) as opened,
                regular_file(name, opened) as (handle, _),
                open(handle, "rb", closefd=False) as file,
            ):
                return self._receive(lambda out: pour(file, out), shown, sha256)
        except NotAFileError:
            raise BundleError(f"{shown}: not a regular file below {folder}") from None
        except (OSError, ValueError) as error:
            raise BundleError(f"{shown}: {getattr(error, 'strerror', None) or error}, below {folder}") from None

    def _from_address(self, url: str, sha256: str | None) -> str:
        remote = self._config.remote
        shown = printable(url)[:200]
        if not allowed(url, remote.addresses):
            listed = ", ".join(remote.addresses) or "none"
            raise BundleError(f"{shown}: not among bundle.remote.addresses ({listed})")
        return self._receive(lambda out: self._download(url, shown, out), shown, sha256)

    def _download(self, url: str, shown: str, out: BinaryIO) -> None:
        remote = self._config.remote
        late = BundleError(f"{shown}: not here after bundle.remote.timeout_s, {remote.timeout_s:g} s")
        with Deadline(remote.timeout_s, min(_SILENCE_S, remote.timeout_s)) as deadline:
            try:
                taken, wanted = self._copy(_opener(remote.addresses, deadline), url, shown, out)
            except (URLError, HTTPException, TimeoutError, ConnectionError, SSLError) as error:
                if isinstance(error, HTTPError):
                    error.close()  # it is the answer, with its connection
                if deadline.over:
                    raise late from None
                reason = getattr(error, "reason", None) or error
                raise BundleError(f"{shown}: cannot be downloaded: {printable(str(reason))[:200]}") from None
            if deadline.over:  # the connection ended there, which of a body without a length looks like its end
                raise late
        if wanted is not None and wanted.isdigit() and taken != int(wanted):
            raise BundleError(f"{shown}: the download broke off, {taken} of {wanted} bytes came")

    def _copy(self, opener: OpenerDirector, url: str, shown: str, out: BinaryIO) -> tuple[int, str | None]:
        """How many bytes came, and how many were announced."""
        taken, max_mb = 0, self._config.remote.max_mb
        with opener.open(url) as answer:
            while chunk := answer.read1(_CHUNK):
                taken += len(chunk)
                if taken > max_mb << 20:
                    raise BundleError(f"{shown}: more than bundle.remote.max_mb, {max_mb} MB")
                out.write(chunk)
            return taken, answer.headers.get("Content-Length")


class _Listed(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only to an address of the list."""

    max_redirections = 5

    def __init__(self, addresses: tuple[str, ...]) -> None:
        self._addresses = addresses

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """As the parent, or ``BundleError``."""
        if not allowed(urljoin(req.full_url, newurl), self._addresses):
            fp.close()
            raise BundleError(f"{req.full_url}: leads on to {printable(newurl)[:200]}, which is not a listed address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(addresses: tuple[str, ...], deadline: Deadline) -> OpenerDirector:
    """Speaks http(s) and nothing else: no file, no ftp, no proxy."""
    opener = OpenerDirector()
    for handler in (
        Http(deadline),
        Https(deadline),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Listed(addresses),
    ):
        opener.add_handler(handler)
    return opener
