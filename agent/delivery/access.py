"""What a far end asks for before it lets the station in: TLS, and secrets that never stand in the configuration.

Invariants: certificates and names are always checked, TLS is 1.2 or newer; a secret is read anew each time it is needed
(it may be rotated) and is in no message. ``at`` is the section of the configuration that an error names.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from agent.config import TlsConfig
from agent.credentials import secret_path
from agent.errors import UsageError


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
