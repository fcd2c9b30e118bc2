"""What a far end asks for before it lets the station in: TLS, and secrets that never stand in the configuration.

Invariants: certificates and names are always checked, TLS is 1.2 or newer; a secret is read anew each time it is needed
(it may be rotated) and is in no message. ``at`` is the section of the configuration that an error names.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from agent.config import TlsConfig
from agent.errors import UsageError


def tls_context(tls: TlsConfig, at: str) -> ssl.SSLContext:
    """What ``<at>.tls`` asks for. ``UsageError`` names the file that cannot be used."""
    for key in ("ca", "cert", "key"):
        path = getattr(tls, key)
        if path is not None and not Path(path).is_file():
            raise UsageError(f"{at}.tls.{key}: {path}: no such file; give a PEM file")
    key = "ca"
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.sslsocket_class = _ClosedWhenRefused
        key = "cert"
        if tls.cert:
            # Without a password callback OpenSSL would ask on the terminal, and a service would hang there.
            context.load_cert_chain(tls.cert, tls.key, password=lambda: b"")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        why = getattr(error, "reason", None) or error
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
            return Path(file).read_text(encoding="utf-8").rstrip("\r\n")
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
