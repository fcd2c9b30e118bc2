"""What may leave the station.

Two nets, one below the other: values of the configuration by their key, and every text by what secrets look like and by
the very secrets that the configuration names.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from agent.credentials import secret_path
from agent.errors import UsageError

REMOVED = "(removed)"
_SECRET_KEY = re.compile(r"pass(word|wd|phrase)?$|secret|token$|^user(name)?$|credential|api_?key|authorization", re.I)
_SECRET_FILE = re.compile(r"(pass\w*|token|secret|key)_file$|^key$")
_SECRET_ENV = re.compile(r"_env$")
_LOOKS_LIKE = (
    re.compile(r"(?<=://)[^\s/@\"']+@"),  # user:password@ in an address
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", re.S),
    re.compile(r"(?<=[Bb]earer )[\w.~+/=-]+"),
    re.compile(r"(?i)(?<=[?&;])(?:[\w-]*(?:token|key|secret|pass\w*|auth\w*|sig\w*))=[^&\s\"']+"),
    re.compile(
        r"(?i)\b(?:password|passwd|secret|token|api_?key)\b[\"']?\s*[:=]\s*[\"']?"
        r"(?!null|unknown key|missing|\(removed)[^\s\"',;}]+"
    ),
)
_SHORTEST = 4  #: a secret of fewer characters would blot out half of every text


def settings(value: Any) -> Any:
    """A configuration (as YAML gives it) without secrets, user names, and what addresses carry of them."""
    if isinstance(value, Mapping):
        return {
            key: REMOVED if _SECRET_KEY.search(str(key)) and inner is not None else settings(inner)
            for key, inner in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [settings(inner) for inner in value]
    return _address(value) if isinstance(value, str) and "://" in value else value


def _address(text: str) -> str:
    """Scheme, host and port. Paths and queries of webhooks and cameras may be secrets themselves."""
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return REMOVED
    rest = f"/{REMOVED}" if parts.path not in ("", "/") or parts.query or parts.fragment else ""
    return f"{parts.scheme}://{host}{port}{rest}"


class Scrubber:
    """Takes secrets out of any text. ``value`` is the configuration that names them."""

    def __init__(self, value: Any) -> None:
        found = {secret.strip() for secret in _secrets(value)}
        found |= {json.dumps(secret)[1:-1] for secret in found}  # as it stands in a text that is JSON
        self._known = sorted((one for one in found if len(one) >= _SHORTEST), key=len, reverse=True)

    def text(self, text: str) -> str:
        """``text`` without what is known, or looks like, a secret."""
        for known in self._known:
            text = text.replace(known, REMOVED)
        for pattern in _LOOKS_LIKE:
            text = pattern.sub(f"{REMOVED}@" if "@" in pattern.pattern else REMOVED, text)
        return text


def _secrets(value: Any, key: str = "") -> Iterator[str]:
    """What the configuration says or points at: passwords, tokens, keys, user names, addresses with such in them."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _secrets(inner, str(name))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _secrets(inner, key)
    elif isinstance(value, str):
        if _SECRET_KEY.search(key):
            yield value
        if _SECRET_ENV.search(key):
            yield os.environ.get(value, "")
        if _SECRET_FILE.search(key):
            yield from _lines_of(value)
        if "://" in value:
            yield from _of_address(value)


def _lines_of(path: str) -> Iterator[str]:
    try:
        yield from secret_path(path, "").read_text(encoding="utf-8", errors="replace").splitlines()
    except (OSError, UsageError):
        return  # what we cannot read can be in no text that we made


def _of_address(text: str) -> Iterator[str]:
    try:
        parts = urlsplit(text)
    except ValueError:
        return
    yield from filter(None, (parts.username, parts.password, parts.query, parts.path.strip("/")))
