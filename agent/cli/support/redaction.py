"""What may leave the station.

Two nets, one below the other: values of the configuration by their key, and every text by what secrets look like and by
the very secrets that the configuration names.

Invariants: a secret goes wherever it stands; what only looks like a word of one (a hash, an id, a topic, a key's name)
stays, or the pack would help nobody. A user name that is an ordinary word here (``weldwatch``) goes only where it is
named as one.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

from agent.credentials import secret_path
from agent.errors import UsageError

REMOVED = "(removed)"
_SECRET_KEY = re.compile(
    r"(^|[_-])(pass|pa?s+w\w*?|passphrase|pw|pwd|ken+wort)(?<!_file)(?<!_env)$|secret|token$|"
    r"^user(name)?$|credential|api[_-]?key|authorization",
    re.I,
)
_NAME_KEY = re.compile(r"^user(name)?$", re.I)
_SECRET_FILE = re.compile(r"(pass\w*|token|secret|key)_file$|^key$")
_SECRET_ENV = re.compile(r"_env$")
#: What a name of a secret ends with, in a text; ``key`` alone is the name of too much else.
_NAMED = (
    r"(?:passw\w*(?<!_file)(?<!_env)|passphrase|pasword|pwd|pw|secret|token|username|user(?==)|"
    r"(?:api|access|private|secret|shared|auth)[_-]?key)"
)
#: Words of our own messages that follow such a name and a colon.
_NO_VALUE = r"(?!(?:null|none|missing|unknown key|no such|the environment)(?:[\s\"',;}]|$)|\(removed)"
_QUOTE = r"\\*[\"']"
_VALUE = rf"(?:(?P<q>{_QUOTE})(?:(?!(?P=q)).)*(?P=q)|[^\s\"',;}})\]]+)"
#: Of each the group ``kept`` stays in front.
_LOOKS_LIKE = (
    # a private key; where its end is missing the lines that are base64, with what the journal puts before each
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:(?!-----BEGIN)[\s\S]){0,9000}?-----END [A-Z ]*PRIVATE KEY-----"),
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----[^\n]*(?:\n(?:[^\n]*[\s:])?[A-Za-z0-9+/=]{16,}[ \t]*(?=\n|$))*"),
    # user:password@ in an address; a password may hold '/' and '@', a port is none
    re.compile(r"(?P<kept>://)[^\s\"'<>/@:]{0,200}:(?!\d+(?:[/?#\s\"']|$))[^\s\"'<>]{0,500}(?=@)"),
    re.compile(r"(?P<kept>://)[^\s\"'<>/@]{1,500}(?=@)"),
    re.compile(
        r"(?P<kept>[?&;](?:[\w-]+[_-])?(?:token|secret|password|passwd|pass|pwd|auth|sig|signature|credential|apikey)=)[^&\s\"'#]+",
        re.I,
    ),
    re.compile(r"(?P<kept>[?&;](?:(?:api|access|auth|private|secret|subscription|shared)[_-]?)?key=)[^&\s\"'#]+", re.I),
    re.compile(rf"(?P<kept>\bauthorization(?:{_QUOTE})?\s*[:=]\s*(?:{_QUOTE})?digest\s).*", re.I),
    re.compile(rf"(?P<kept>\bauthorization(?:{_QUOTE})?\s*[:=]\s*(?:{_QUOTE})?(?:[a-z]+ +)?)[^\s\"',;}}\\]+", re.I),
    re.compile(r"(?P<kept>\b(?:set-)?cookie\s*:\s*).*", re.I),
    re.compile(r"(?P<kept>\bbearer )(?=[\w.~+/=-]*\d)[\w.~+/=-]{6,}", re.I),
    re.compile(r"\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*"),  # a JSON Web Token
    re.compile(rf"(?P<kept>\s--?(?:[\w-]+-)?(?:password|passwd|pass|pw|token|username)[ =]){_VALUE}", re.I),
    re.compile(rf"(?P<kept>\bcurl\b[^\n]{{0,300}}?\s(?:-u|--user)[ =]?){_VALUE}"),
    re.compile(rf"(?P<kept>\bmosquitto_\w+\b[^\n]{{0,300}}?\s-P ){_VALUE}"),
    re.compile(rf"(?P<kept>\bmosquitto_\w+\b[^\n]{{0,300}}?\s-u ){_VALUE}"),
    re.compile(
        rf"(?P<kept>(?<!unexpected )(?<![\w-])(?:[\w-]*[_-]|PG)?{_NAMED}(?:{_QUOTE})?\s*[:=]\s*){_NO_VALUE}{_VALUE}",
        re.I,
    ),
)
_SHORTEST = 4  #: a secret of fewer characters would blot out half of every text
_LONG = 8  #: a shorter one goes only where it stands as a word: four digits are in many a hash


def settings(value: Any, known: Collection[str] | None = None) -> Any:
    """A configuration (as YAML gives it) without secrets, user names, and what addresses carry of them.

    ``known``: the keys that there are. What stands under another goes: nobody knows what a misspelled key holds.
    """
    if isinstance(value, Mapping):
        return {
            key: REMOVED if inner is not None and _is_secret(str(key), inner, known) else settings(inner, known)
            for key, inner in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [settings(inner, known) for inner in value]
    return _address(value) if isinstance(value, str) and "://" in value else value


def _is_secret(key: str, value: Any, known: Collection[str] | None) -> bool:
    unknown = known is not None and key not in known and not isinstance(value, Mapping)
    return unknown or _SECRET_KEY.search(key) is not None


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


@dataclass
class _Known:
    """What the configuration says or points at."""

    secrets: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)  #: of users
    addresses: set[tuple[str, str]] = field(default_factory=set)  #: host, and what follows it
    words: set[str] = field(default_factory=lambda: {"weldwatch"})  #: that are in no way secret


class Scrubber:
    """Takes secrets out of any text. ``value`` is the configuration that names them."""

    def __init__(self, value: Any) -> None:
        known = _Known()
        _gather(value, known)
        self._patterns = [
            *(_standing(one) for one in _spelled(known.secrets)),
            *(_standing(one, as_word=True) for one in _spelled(known.names) if one.lower() not in known.words),
            *(re.compile(rf"(?P<kept>{re.escape(host)}(?::\d+)?/){re.escape(rest)}") for host, rest in known.addresses),
            *_LOOKS_LIKE,
        ]

    def text(self, text: str) -> str:
        """``text`` without what is known, or looks like, a secret."""
        for pattern in self._patterns:
            text = pattern.sub(_without, text)
        return text


def _without(found: re.Match[str]) -> str:
    return (found.groupdict().get("kept") or "") + REMOVED


def _spelled(secrets: set[str]) -> list[str]:
    """Each as it may stand in a text (plain, in JSON, in an address), the longest first."""
    stripped = {one.strip() for one in secrets}
    every = stripped | {json.dumps(one)[1:-1] for one in stripped} | {quote(one, safe="") for one in stripped}
    return sorted((one for one in every if len(one) >= _SHORTEST), key=len, reverse=True)


def _standing(secret: str, as_word: bool = False) -> re.Pattern[str]:
    word = re.escape(secret)
    return re.compile(rf"(?<![\w-]){word}(?![\w-])" if as_word or len(secret) < _LONG else word)


def _gather(value: Any, known: _Known, key: str = "") -> None:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _gather(inner, known, str(name))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _gather(inner, known, key)
    elif value is not None and _NAME_KEY.search(key):
        known.names.add(str(value))
    elif value is not None and _SECRET_KEY.search(key):
        known.secrets.add(str(value))
    elif isinstance(value, str):
        if _SECRET_ENV.search(key):
            known.secrets.add(os.environ.get(value, ""))
        elif _SECRET_FILE.search(key):
            known.secrets |= set(_lines_of(value))
        elif "://" in value:
            _of_address(value, known)
        else:
            known.words |= {word.lower() for word in re.split(r"[\s/:.,]+", value)}


def _lines_of(path: str) -> Iterator[str]:
    try:
        lines = secret_path(path, "").read_text(encoding="utf-8", errors="replace").splitlines()
    except (OSError, UsageError):
        return  # what we cannot read can be in no text that we made
    # The fence of a PEM file is no secret: without it another key's would not be known any more.
    yield from (line for line in lines if not line.startswith("-----"))


def _of_address(text: str, known: _Known) -> None:
    """A path is a secret where it looks made by a machine; elsewhere it goes after its host only."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return
    known.names |= {parts.username or ""}
    known.secrets |= {parts.password or "", parts.query}
    path = parts.path.strip("/")
    if any(len(one) >= _LONG and re.search(r"\d", one) and re.search(r"[A-Za-z]", one) for one in path.split("/")):
        known.secrets.add(path)
    elif path:
        known.addresses.add((parts.hostname or "", path))
