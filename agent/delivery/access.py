"""What a far end asks for before it lets the station in: TLS, and secrets that never stand in the configuration.

Invariants
- Certificates and names are always checked, TLS is 1.2 or newer.
- A secret is read anew each time it is needed (it may be rotated) and is in no message. So are certificates that were
  renewed; half a renewed pair, or none, leaves the ones before in use and is the problem ``tls_not_renewed:<at>``.
- ``at`` is the section of the configuration that an error names.
"""

from __future__ import annotations

import os
import ssl
import threading
from pathlib import Path

from agent.config import TlsConfig
from agent.credentials import secret_path
from agent.errors import UsageError
from agent.health import Health
from agent.logs import log

_LOG = log("delivery")
_Signature = tuple[object, ...]


class Tls:
    """What ``<at>.tls`` asks for, with its files as they are at each connection. Safe to use from any thread.

    Constructing it reads them: ``UsageError`` names the one that cannot be used.
    """

    def __init__(self, config: TlsConfig, at: str, health: Health | None = None) -> None:
        self._config, self._at, self._health = config, at, health
        self._lock = threading.Lock()
        self._problem, self._raised = f"tls_not_renewed:{at}", False
        self._signature = self._look()
        self._context = tls_context(config, at)

    def context(self) -> ssl.SSLContext:
        """For the next connection: of the files as they are, or as they were last of use."""
        with self._lock:
            signature = self._look()
            if signature != self._signature:
                try:
                    self._context = tls_context(self._config, self._at)
                except UsageError as error:
                    self._not_renewed(str(error))
                    return self._context
                self._signature = signature
                _LOG.info("%s.tls: its files have changed; connecting with the new ones", self._at)
            if self._raised and self._health is not None:
                self._raised = False
                self._health.over(self._problem)
            return self._context

    def _look(self) -> _Signature:
        """Changes as a file is written or replaced. Taken before reading: a change in between is seen next time."""
        seen: list[object] = []
        for key in ("ca", "cert", "key"):
            named = getattr(self._config, key)
            try:
                found = secret_path(named, f"{self._at}.tls.{key}").stat() if named is not None else None
            except (OSError, UsageError):
                found = None
            seen.append(found and (found.st_ino, found.st_size, found.st_mtime_ns))
        return tuple(seen)

    def _not_renewed(self, why: str) -> None:
        if self._health is None:
            return
        self._raised = True
        detail = f"{why}; the certificates from before the change are still used"
        if self._health.raise_problem(self._problem, detail):
            _LOG.error("tls_not_renewed: %s", detail)


def tls_context(tls: TlsConfig, at: str) -> ssl.SSLContext:
    """What ``<at>.tls`` asks for. ``UsageError`` names the file that cannot be used."""
    files: dict[str, Path | None] = {}
    for key in ("ca", "cert", "key"):
        named = getattr(tls, key)
        files[key] = path = secret_path(named, f"{at}.tls.{key}") if named is not None else None
        if path is not None and not path.is_file():
            raise UsageError(f"{at}.tls.{key}: {path}: no such file; give a PEM file")
    key = "ca"
    try:
        context = ssl.create_default_context(cafile=files["ca"])
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.sslsocket_class = _ClosedWhenRefused
        key = "cert"
        if files["cert"]:
            # Without a password callback OpenSSL would ask on the terminal, and a service would hang there.
            context.load_cert_chain(files["cert"], files["key"], password=lambda: b"")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        why = getattr(error, "reason", None) or error
        if why == "KEY_VALUES_MISMATCH":
            raise UsageError(f"{at}.tls.key: {tls.key}: is not the key of {tls.cert}; give the two together") from None
        raise UsageError(f"{at}.tls.{key}: {getattr(tls, key)}: not usable as PEM ({why})") from None
    return context


def secret(file: str | None, variable: str | None, at: str, what: str = "password") -> str | None:
    """The secret of ``<at>.<what>_file`` or ``<at>.<what>_env`` as it is now; None where neither is configured.

    ``UsageError`` when the file or the variable is not there.
    """
    if variable:
        if variable not in os.environ:
            raise UsageError(f"{at}.{what}_env: the environment has no {variable}")
        return os.environ[variable]
    if file:
        try:
            return secret_path(file, f"{at}.{what}_file").read_text(encoding="utf-8").rstrip("\r\n")
        except OSError as error:
            raise UsageError(f"{at}.{what}_file: {file}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise UsageError(f"{at}.{what}_file: {file}: not UTF-8 text") from None
    return None


class _ClosedWhenRefused(ssl.SSLSocket):
    """paho forgets the socket of a handshake that failed; left to the garbage collector it would stay open a while."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise
