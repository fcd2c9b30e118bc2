"""The ``webhook`` section: one line says what is wrong with it."""

from __future__ import annotations

import pytest

from agent import config
from agent.errors import ConfigError

BASE = """
station: {name: cam-07}
state: state
sources: [{type: folder, name: captures, path: captures}]
results: {directory: results}
"""


@pytest.mark.parametrize(
    "section",
    [
        "{url: 'https://mes.example/api/results?line=3'}",
        "{url: 'https://[::1]:8443/', token_env: TOKEN, tls: {ca: ca.pem, cert: c.pem, key: k.pem}}",
        "{url: 'http://127.0.0.1:8080', token_file: token}",
        "{url: 'http://mes.example/plain', timeout_s: 0.5}",
    ],
)
def test_what_is_right(section: str) -> None:
    assert config.parse(f"{BASE}webhook: {section}\n").webhook is not None


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ("{}", "webhook.url: missing; this key is required"),
        ("{url: mes.example}", "found 'mes.example'; https://<host>[:<port>]/<path>, or http://…"),
        ("{url: 'ftp://mes.example/'}", "https://<host>[:<port>]/<path>"),
        ("{url: 'https:///results'}", "https://<host>[:<port>]/<path>"),
        ("{url: 'https://mes.example:99999/'}", "webhook.url: found 'https://mes.example:99999/'; Port out of range"),
        ("{url: 'https://mes.example:0/'}", "https://<host>[:<port>]/<path>"),
        ("{url: 'https://u:p@mes.example/'}", "no user or password in the address; give token_file or token_env"),
        ("{url: 'https://mes.example/#here'}", "no '#' part"),
        ('{url: "https://mes.example/a b"}', "printable ASCII without spaces"),
        ('{url: "https://mes.example/\\r\\nHost: x"}', "printable ASCII without spaces"),
        ("{url: 'https://mäs.example/'}", "host names as xn--…"),
        ("{url: 'http://mes.example/', token_env: T}", "with a token it must be https"),
        ("{url: 'http://mes.example/', tls: {ca: x}}", "webhook.tls: found with an http address"),
        ("{url: 'https://mes.example/', tls: {cert: x}}", "webhook.tls: cert and key go together"),
        ("{url: 'https://mes.example/', token_env: T, token_file: t}", "webhook.token_env: found together with"),
        ("{url: 'https://mes.example/', token: secret}", "webhook.token: unknown key; did you mean 'token_env'?"),
        ("{url: 'https://mes.example/', timeout_s: 0}", "webhook.timeout_s: found 0"),
    ],
)
def test_what_is_wrong_is_one_line(section: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse(f"{BASE}webhook: {section}\n", "agent.yaml")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value).replace("\\n", "")
    assert str(caught.value).startswith("agent.yaml: webhook")
