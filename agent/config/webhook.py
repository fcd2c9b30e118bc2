"""The ``webhook`` section: an address that takes each result by HTTP POST."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from msgspec import Meta

from agent.config.section import Section, TlsConfig
from agent.errors import ConfigError

_HERE = ("localhost", "127.0.0.1", "::1")


class WebhookConfig(Section, frozen=True):
    """Where results are posted to, and how to get in."""

    url: str
    timeout_s: Annotated[float, Meta(ge=0.1, le=60)] = 5.0  #: for one whole request, to the end of its answer
    token_file: str | None = None
    token_env: str | None = None
    tls: TlsConfig | None = None  #: only for https; None trusts the system's authorities

    @property
    def target(self) -> SplitResult:
        """The parts of ``url``; only meaningful once it was checked."""
        return urlsplit(self.url)


def check_webhook(webhook: WebhookConfig, file: str) -> None:
    """What one key alone cannot tell."""
    wrong = _wrong_with(webhook.url)
    if wrong:
        raise ConfigError(file, "webhook.url", f"found {webhook.url!r}", wrong)
    if webhook.token_file and webhook.token_env:
        raise ConfigError(file, "webhook.token_env", "found together with token_file", "use one or the other")
    if webhook.tls and bool(webhook.tls.cert) != bool(webhook.tls.key):
        raise ConfigError(file, "webhook.tls", "cert and key go together", "give both or none")
    plain = webhook.target.scheme == "http"
    if plain and webhook.tls:
        raise ConfigError(file, "webhook.tls", "found with an http address", "give an https address, or remove tls")
    if plain and (webhook.token_file or webhook.token_env) and webhook.target.hostname not in _HERE:
        raise ConfigError(file, "webhook.url", f"found {webhook.url!r}", "with a token it must be https")


def _wrong_with(url: str) -> str:
    """What is allowed instead; empty when it can be used."""
    if not url.isascii() or not url.isprintable() or " " in url:
        return "printable ASCII without spaces; write other characters as %NN, and host names as xn--…"
    try:
        target = urlsplit(url)
        port = target.port
    except ValueError as error:
        return str(error)
    if target.scheme not in ("http", "https") or not target.hostname or port == 0:
        return "https://<host>[:<port>]/<path>, or http://…"
    if target.username is not None or target.password is not None:
        return "no user or password in the address; give token_file or token_env"
    if target.fragment:
        return "no '#' part; a server never gets it"
    return ""
