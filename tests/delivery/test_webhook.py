"""The webhook sink against a real HTTP server: what an answer means, tokens, TLS, and a kept connection."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from agent.clock import ManualClock
from agent.config import TlsConfig, WebhookConfig
from agent.delivery.webhook import Webhook, probe
from agent.errors import RejectError, RetryError, UsageError
from agent.health import Health
from tests.support.certificates import authority
from tests.support.results import stored
from tests.support.web import WebServer

NOON = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer() as server:
        yield server


class Near:
    """The sink with its health and a clock that a test turns."""

    def __init__(self, url: str, **config: Any) -> None:
        self.health, self.clock = Health(), ManualClock(NOON)
        self.sink = Webhook(WebhookConfig(url=url, **config), self.health, self.clock)

    def deliver(self, *numbers: int) -> int:
        return self.sink.deliver([stored(n) for n in numbers])

    def refused(self, number: int = 1) -> str:
        with pytest.raises((RetryError, RejectError)) as caught:
            self.deliver(number)
        return f"{type(caught.value).__name__}: {caught.value}"


@pytest.fixture
def near(server: WebServer) -> Iterator[Near]:
    near = Near(server.url)
    yield near
    near.sink.close()


def test_each_result_is_a_post_with_its_id_as_key(server: WebServer, near: Near) -> None:
    batch = [stored(n) for n in range(1, 30)]
    assert near.sink.deliver(batch) == 29
    assert [json.loads(one.body) for one in batch] == [body for _, body in server.posts]
    for one, (headers, body) in zip(batch, server.posts, strict=True):
        assert headers["Idempotency-Key"] == one.result_id == body["result_id"]
        assert headers["Content-Type"] == "application/json"
        assert headers["User-Agent"].startswith("weldwatch/")
        assert "Authorization" not in headers
    assert len(server.clients) == 1, "one connection, kept alive"


def test_a_replay_comes_under_the_same_keys(server: WebServer, near: Near) -> None:
    batch = [stored(1), stored(2)]
    assert (near.sink.deliver(batch), near.sink.deliver_again(batch)) == (2, 2)
    assert [headers["Idempotency-Key"] for headers, _ in server.posts] == [one.result_id for one in batch * 2]


@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_what_speaks_of_this_result_makes_a_dead_letter(server: WebServer, near: Near, status: int) -> None:
    server.answer = lambda *_: (status, {}, b'{"detail":\n "weld_id\x1b[31m is missing"}')
    assert near.refused() == (
        f'RejectError: http://127.0.0.1:{server.port} answers {status}: {{"detail": "weld_id\\x1b[31m is missing"}}'
    )
    assert not near.health.problems()


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504])
def test_what_passes_is_tried_again(server: WebServer, near: Near, status: int) -> None:
    server.answer = lambda *_: (status, {}, b"")
    assert near.refused() == f"RetryError: http://127.0.0.1:{server.port} answers {status}"
    server.answer = lambda *_: (200, {}, b"ok")
    assert near.deliver(1) == 1


@pytest.mark.parametrize(
    ("asked", "waited"),
    [
        ("120", 120),
        (format_datetime(NOON + timedelta(seconds=90), usegmt=True), 90),
        ("999999999999", 3600),
        (format_datetime(NOON - timedelta(days=1), usegmt=True), 0),
        ("soon", 0),
        ("-5", 0),
        ("", 0),
    ],
)
def test_retry_after_is_honoured_within_reason(server: WebServer, near: Near, asked: str, waited: int) -> None:
    server.answer = lambda *_: (503, {"Retry-After": asked}, b"")
    near.refused()
    server.answer = lambda *_: (201, {}, b"")
    if waited:
        assert f"for another {waited} s" in near.refused()
        near.clock.advance(waited - 1)
        near.refused()
        assert len(server.asked) == 1, "left alone"
        near.clock.advance(1)
    assert near.deliver(1) == 1


def test_a_key_that_is_still_being_worked_on_is_tried_five_times(server: WebServer, near: Near) -> None:
    server.answer = lambda *_: (409, {}, b"")
    for _ in range(4):
        assert near.refused().startswith("RetryError")
    server.answer = lambda *_: (200, {}, b"")
    assert near.deliver(1) == 1
    server.answer = lambda *_: (409, {}, b"")
    for _ in range(4):
        assert near.refused().startswith("RetryError")
    assert near.refused().startswith("RejectError")
    assert near.refused().startswith("RetryError"), "the next one begins anew"


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (401, "check the token"),
        (403, "check the token"),
        (404, "check webhook.url"),
        (405, "check webhook.url"),
        (410, "check webhook.url"),
        (302, "redirects to 'https://elsewhere/' are not followed, write the final address into webhook.url"),
        (308, "redirects to 'https://elsewhere/' are not followed"),
    ],
)
def test_what_speaks_of_the_address_keeps_results_and_is_an_alarm(
    server: WebServer, near: Near, caplog: pytest.LogCaptureFixture, status: int, remedy: str
) -> None:
    server.answer = lambda *_: (status, {"Location": "https://elsewhere/"}, b"")
    for _ in range(3):
        assert near.refused().startswith("RetryError")
    assert remedy in near.health.problems()["webhook_denied"]
    (line,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert (line.levelname, "webhook_denied: " in line.getMessage()) == ("ERROR", True)
    server.answer = lambda *_: (204, {}, b"")
    assert near.deliver(1) == 1
    assert near.health.problems() == {}
    assert {method for method, _ in server.asked} == {"POST"}


def test_trouble_in_mid_batch_counts_what_came_before(server: WebServer, near: Near) -> None:
    server.answer = lambda *_: (500, {}, b"") if len(server.posts) == 2 else (200, {}, b"")
    assert near.deliver(1, 2, 3, 4) == 2


def test_a_connection_that_was_closed_while_idle_is_no_failure(server: WebServer, near: Near) -> None:
    assert near.deliver(1) == 1
    server.stop()
    server.start()
    assert near.deliver(2) == 1


def test_a_server_that_closes_after_each_answer_is_served(server: WebServer, near: Near) -> None:
    server.answer = lambda *_: (200, {"Connection": "close"}, b"thanks")
    assert near.deliver(1, 2, 3) == 3
    assert len(server.clients) == 3


# --- token and TLS ---


def test_the_token_is_sent_and_read_anew_when_it_was_refused(server: WebServer, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old\n")

    def guarded(_method: str, headers: dict[str, str], _body: bytes) -> tuple[int, dict[str, str], bytes]:
        return (200 if headers.get("Authorization") == "Bearer new" else 401), {}, b""

    server.answer = guarded
    near = Near(server.url, token_file=str(file))
    assert "check the token" in near.refused()
    file.write_text("new\n")
    assert near.deliver(1) == 1
    file.unlink()
    assert near.deliver(2) == 1, "the connection that is open knows it"
    server.stop()
    server.start()
    assert near.refused() == f"RetryError: webhook.token_file: {file}: No such file or directory"
    near.sink.close()


def test_a_token_that_cannot_be_one_is_told_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="the environment has no WEBHOOK_TOKEN"):
        Near("http://127.0.0.1:1/", token_env="WEBHOOK_TOKEN")
    monkeypatch.setenv("WEBHOOK_TOKEN", "a\r\nX-Admin: 1")
    with pytest.raises(UsageError, match="the token must be printable ASCII") as caught:
        Near("http://127.0.0.1:1/", token_env="WEBHOOK_TOKEN")
    assert "X-Admin" not in str(caught.value), "a secret is in no message"


def test_a_renewed_authority_is_taken_up_with_the_next_connection(tmp_path: Path) -> None:
    old, new = authority(tmp_path / "old"), authority(tmp_path / "new")
    ca = tmp_path / "ca.pem"
    ca.write_bytes(old.ca.read_bytes())
    server = WebServer(old.issue("mes"))
    with server:
        near = Near(server.url, tls=TlsConfig(ca=str(ca)))
        near.deliver(1)
        server.stop()
        server.certificate = new.issue("mes")
        server.start()
        assert "is not trusted" in near.refused()
        ca.write_text("torn")
        assert "is not trusted" in near.refused()
        assert "webhook.tls.ca" in near.health.problems()["tls_not_renewed:webhook"]
        ca.write_bytes(new.ca.read_bytes())
        near.deliver(2)
        assert near.health.problems() == {}
        near.sink.close()


def test_tls_is_verified(tmp_path: Path) -> None:
    ours, other = authority(tmp_path / "ours"), authority(tmp_path / "other")
    with WebServer(ours.issue("server")) as server:
        near = Near(server.url, tls=TlsConfig(ca=str(ours.ca)))
        assert near.deliver(1, 2) == 2
        assert len(server.clients) == 1
        server.answer = lambda *_: (200, {"Connection": "close"}, b"")
        assert near.deliver(3, 4) == 2, "a new connection speaks TLS as well"
        near.sink.close()
        assert "is not trusted" in Near(server.url, tls=TlsConfig(ca=str(other.ca))).refused()
        assert "is not trusted" in Near(server.url).refused()
        with WebServer() as plain:
            wrong = Near(plain.url.replace("http:", "https:"), tls=TlsConfig(ca=str(ours.ca)))
            assert "fails the TLS handshake" in wrong.refused()
    with WebServer(ours.issue("elsewhere", host="127.0.0.9")) as server:
        assert "is not trusted" in Near(server.url, tls=TlsConfig(ca=str(ours.ca))).refused()
    with pytest.raises(UsageError, match=r"webhook\.tls\.ca: .*no such file"):
        Near("https://127.0.0.1/", tls=TlsConfig(ca=str(tmp_path / "none.pem")))


def test_check_tries_it_without_posting(server: WebServer, tmp_path: Path) -> None:
    config = WebhookConfig(url=server.url)
    assert probe(config) is None
    server.answer = lambda *_: (405, {}, b"")
    assert probe(config) is None, "an address that takes only POST"
    server.answer = lambda *_: (403, {}, b"")
    assert "answers 403; check the token" in (probe(config) or "")
    assert [method for method, _ in server.asked] == ["HEAD"] * 3
    server.stop()
    assert "has nothing listening there" in (probe(config) or "")
    assert "no such file" in (probe(WebhookConfig(url="https://127.0.0.1/", tls=TlsConfig(ca="none"))) or "")
