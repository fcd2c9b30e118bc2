"""Bundles by command: from a configured folder or address only, signed always, answered with what really judges."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.app.bundles import Arrival, Bundles, Remote
from agent.app.commands import RefusedError
from agent.errors import BundleError
from tests.support import certificates
from tests.support.bundles import brightness_bundle, flat_png
from tests.support.judge import bundles, settings
from tests.support.mosquitto import Listener, Mosquitto
from tests.support.signed import Plant
from tests.support.station import Station
from tests.support.web import raw_server


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path / "plant")


@pytest.fixture
def outbox(tmp_path: Path) -> Path:
    (tmp_path / "allowed").mkdir()
    return tmp_path / "allowed"


Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def station(tmp_path: Path, plant: Plant, outbox: Path) -> Iterator[Bundles]:
    first = plant.bundle("1.0.0")
    made, _ = bundles(tmp_path, initial=first, trusted_keys=plant.keys)
    yield made
    made.stop()


def asker(made: Bundles, root: Path, **remote: Any) -> Ask:
    """Carry a command out as the agent would, and wait for its answer."""
    keys = str(made.trust.keys) if made.trust.keys else None
    config = settings(root, trusted_keys=keys, remote=remote) if keys else settings(root)
    orders = Arrival(made, Remote(config.bundle, made.store)).orders()

    def ask(command: str, **fields: Any) -> dict[str, Any]:
        order = orders[command]
        outcome = order.work(msgspec.json.decode(json.dumps(fields), type=order.wishes))
        assert isinstance(outcome, Future)
        return dict(outcome.result(60))

    return ask


def test_installed_activated_and_rolled_back(station: Bundles, plant: Plant, outbox: Path, tmp_path: Path) -> None:
    ask = asker(station, tmp_path, folder=str(outbox))
    (outbox / "new").mkdir()
    data = plant.bundle("2.0.0").read_bytes()
    (outbox / "new" / "b.pipeline").write_bytes(data)
    wish = {"path": "new/b.pipeline", "sha256": hashlib.sha256(data).hexdigest().upper()}
    assert ask("bundle-install", **wish) == {"installed": "brightness-2.0.0"}
    answer = ask("bundle-activate", name="brightness-2.0.0")
    assert (answer["judges"], answer["variant"], answer["signed_by"]) == ("brightness-2.0.0", "fp32", "plant")
    assert station.loaded.model.facts.version == "2.0.0"
    assert ask("bundle-rollback")["judges"] == "brightness-1.0.0"
    assert station.loaded.model.facts.version == "1.0.0"
    with pytest.raises(BundleError, match="nothing to go back to"):
        ask("bundle-rollback")


def test_what_does_not_pass_here_is_not_pointed_at(
    station: Bundles, plant: Plant, outbox: Path, tmp_path: Path
) -> None:
    ask = asker(station, tmp_path, folder=str(outbox))
    golden = brightness_bundle(tmp_path / "x").golden
    wrong = [msgspec.structs.replace(one, outputs={"fp32": [0.5, 0.5]}) for one in golden]
    plant.bundle("2.0.0", golden=wrong).rename(outbox / "b.pipeline")
    ask("bundle-install", path="b.pipeline")
    with pytest.raises(BundleError, match="self-test failed on this machine"):
        ask("bundle-activate", name="brightness-2.0.0")
    with pytest.raises(BundleError, match=r"not installed; installed are brightness-2\.0\.0"):
        ask("bundle-activate", name="../../etc/passwd")
    assert station.store.pointer() is None
    assert station.loaded.model.facts.version == "1.0.0"


def test_paths_lead_nowhere_else(station: Bundles, plant: Plant, outbox: Path, tmp_path: Path) -> None:
    ask = asker(station, tmp_path, folder=str(outbox))
    secret = plant.bundle("2.0.0")
    (outbox / "link.pipeline").symlink_to(secret)
    (outbox / "folder").symlink_to(secret.parent)
    os.mkfifo(outbox / "fifo.pipeline")
    inside = os.path.relpath(secret, outbox)
    for path, said in {
        str(secret): "relative to",
        inside: "without '..'",
        "link.pipeline": "not a regular file",
        "fifo.pipeline": "not a regular file",
        f"folder/{secret.name}": "below",
        "none.pipeline": "No such file",
        "a\nb": "No such file",
        "": "at least 1|length >= 1",
        "x" * 300: "File name too long",
    }.items():
        with pytest.raises((BundleError, msgspec.ValidationError), match=said) as caught:
            ask("bundle-install", path=path)
        assert "\n" not in str(caught.value)
    assert station.store.names() == []


@pytest.mark.parametrize(
    ("key", "said"), [(None, "is not signed"), ("stranger", "is signed by nobody that is trusted")]
)
def test_a_trusted_signature_always(
    station: Bundles, plant: Plant, outbox: Path, tmp_path: Path, key: str | None, said: str
) -> None:
    ask = asker(station, tmp_path, folder=str(outbox))
    plant.bundle("2.0.0", key=key).rename(outbox / "b.pipeline")
    with pytest.raises(BundleError, match=f"b.pipeline: {said}"):
        ask("bundle-install", path="b.pipeline")
    assert station.store.names() == []


def test_without_trusted_keys_nothing_comes_by_command(tmp_path: Path) -> None:
    brightness_bundle(tmp_path / "b.pipeline")
    made, _ = bundles(tmp_path, initial=tmp_path / "b.pipeline")
    with pytest.raises(BundleError, match=r"bundle\.trusted_keys is not set"):
        asker(made, tmp_path)("bundle-install", path="b.pipeline")
    name = made.store.install(tmp_path / "b.pipeline")  # by a person at the station, who may
    for command, wishes in (("bundle-activate", {"name": name}), ("bundle-rollback", {})):
        with pytest.raises(BundleError, match=r"bundle\.trusted_keys is not set"):
            asker(made, tmp_path)(command, **wishes)
    assert made.store.pointer() is None
    made.stop()


def test_one_bundle_command_at_a_time(station: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(_: object, name: str) -> Any:
        begun.set()
        assert go_on.wait(10)
        return station.loaded

    monkeypatch.setattr(Bundles, "activate", slow)
    arrival = Arrival(station, Remote(settings(tmp_path).bundle, station.store)).orders()
    activate, rollback = arrival["bundle-activate"], arrival["bundle-rollback"]
    first = activate.work(activate.wishes(name="a"))
    assert begun.wait(10)
    with pytest.raises(RefusedError, match="another bundle command"):
        rollback.work(rollback.wishes())
    go_on.set()
    assert first.result(10)["judges"] == "brightness-1.0.0"


# --- addresses ---


class Shop(http.server.BaseHTTPRequestHandler):
    """Serves one bundle in good and in bad ways."""

    body = b""
    elsewhere = ""

    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header(
                "Location",
                {"/to/good": "/models/b.pipeline", "/to/file": "file:///etc/passwd"}.get(self.path, self.elsewhere),
            )
            self.end_headers()
        elif self.path == "/models/drip":
            self.send_response(200)
            self.end_headers()
            while True:
                try:
                    self.wfile.write(b"x")
                    self.wfile.flush()
                except OSError:
                    return
                time.sleep(0.05)  # a server that never ends
        elif self.path.startswith("/models/b"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.body) + 10 * self.path.endswith("cut")))
            self.end_headers()
            self.wfile.write(self.body)
        else:
            self.send_error(404)

    def log_message(self, *_: object) -> None: ...


@contextlib.contextmanager
def open_shop(plant: Plant, certificate: tuple[Path, Path] | None = None) -> Iterator[str]:
    Shop.body = plant.bundle("2.0.0").read_bytes()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Shop) as server:
        server.daemon_threads = True
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def shop(plant: Plant) -> Iterator[str]:
    with open_shop(plant) as shop:
        yield shop


def test_downloaded_from_a_listed_address(station: Bundles, shop: str, tmp_path: Path) -> None:
    ask = asker(station, tmp_path, addresses=[f"{shop}/models/", f"{shop}/to/good"])
    digest = hashlib.sha256(Shop.body).hexdigest()
    assert ask("bundle-install", url=f"{shop}/models/b.pipeline", sha256=digest) == {"installed": "brightness-2.0.0"}
    assert ask("bundle-install", url=f"{shop}/to/good") == {"installed": "brightness-2.0.0"}
    assert ask("bundle-activate", name="brightness-2.0.0")["judges"] == "brightness-2.0.0"


def test_a_certificate_is_checked_against_the_authorities_of_the_system(
    station: Bundles, plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = certificates.authority(tmp_path / "ca")
    with open_shop(plant, authority.issue("server")) as shop:
        ask = asker(station, tmp_path, addresses=[f"{shop}/models/"])
        with pytest.raises(BundleError, match=r"cannot be downloaded.*certificate verify failed"):
            ask("bundle-install", url=f"{shop}/models/b.pipeline")
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
        assert ask("bundle-install", url=f"{shop}/models/b.pipeline") == {"installed": "brightness-2.0.0"}


def test_downloads_that_are_refused(station: Bundles, shop: str, tmp_path: Path) -> None:
    Shop.elsewhere = "http://192.0.2.1/models/b.pipeline"
    ask = asker(station, tmp_path, addresses=[f"{shop}/models/", f"{shop}/to/"], timeout_s=0.5)
    for path, said in {
        "/other/b.pipeline": "not among bundle.remote.addresses",
        "/models/../other/b": "not among",
        "/models/%2e%2e/b": "not among",
        "/models/b?x=1": "not among",
        "/models/none": "cannot be downloaded: Not Found",
        "/models/b.cut": "the download broke off|IncompleteRead",
        "/models/drip": "not here after bundle.remote.timeout_s, 0.5 s",
        "/to/file": "is not allowed",
        "/to/other": "which is not a listed address",
    }.items():
        with pytest.raises(BundleError, match=said) as caught:
            ask("bundle-install", url=shop + path)
        assert "\n" not in str(caught.value)
    with pytest.raises(BundleError, match="its SHA-256 is"):
        ask("bundle-install", url=f"{shop}/models/b.pipeline", sha256="0" * 64)
    with pytest.raises(BundleError, match="cannot be downloaded"):
        asker(station, tmp_path, addresses=["http://127.0.0.1:9/"])("bundle-install", url="http://127.0.0.1:9/b")
    with pytest.raises(BundleError, match="one of them"):
        ask("bundle-install")
    assert station.store.names() == []
    assert list(station.store.folder.glob(".*.tmp")) == []


def drip(first: bytes) -> Callable[[socket.socket], None]:
    """A server that begins so and never gets on, one byte after the other: none is silent for long."""

    def talk(wire: socket.socket) -> None:
        wire.sendall(first)
        end = time.monotonic() + 8
        while time.monotonic() < end:
            wire.sendall(b"x")
            time.sleep(0.02)  # the point of it

    return talk


@pytest.mark.quiet
@pytest.mark.parametrize(
    ("scheme", "first"),
    [
        ("http", b"HTTP/1.1 200 OK\r\nX-Odd: "),
        ("http", b"HTTP/1.1 "),
        ("http", b"HTTP/1.1 200 OK\r\n\r\n"),
        ("http", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;"),
        ("https", b"\x16\x03\x03\x3f\x00"),
    ],
    ids=["header", "status line", "body", "chunk", "handshake"],
)
def test_a_server_that_drips_is_left_when_time_is_up(
    station: Bundles, tmp_path: Path, scheme: str, first: bytes
) -> None:
    with raw_server(drip(first)) as address:
        listed = address.replace("http:", f"{scheme}:")
        ask, begin = asker(station, tmp_path, addresses=[listed], timeout_s=0.5), time.monotonic()
        with pytest.raises(BundleError, match=r"not here after bundle\.remote\.timeout_s, 0\.5 s"):
            ask("bundle-install", url=f"{listed}b.pipeline")
        assert time.monotonic() - begin < 3
    assert list(station.store.folder.glob(".*.tmp")) == []


@pytest.mark.quiet
def test_a_server_that_drips_after_a_redirect_has_no_time_of_its_own(
    station: Bundles, shop: str, tmp_path: Path
) -> None:
    with raw_server(drip(b"HTTP/1.1 ")) as address:
        Shop.elsewhere = f"{address}b"
        ask, begin = asker(station, tmp_path, addresses=[f"{shop}/to/", address], timeout_s=0.5), time.monotonic()
        with pytest.raises(BundleError, match=r"not here after bundle\.remote\.timeout_s, 0\.5 s"):
            ask("bundle-install", url=f"{shop}/to/other")
        assert time.monotonic() - begin < 3


def test_a_download_ends_at_its_size(station: Bundles, shop: str, tmp_path: Path) -> None:
    Shop.body = bytes((1 << 20) + 1)
    ask = asker(station, tmp_path, addresses=[f"{shop}/models/"], max_mb=1)
    with pytest.raises(BundleError, match=r"more than bundle\.remote\.max_mb, 1 MB"):
        ask("bundle-install", url=f"{shop}/models/b.pipeline")


# --- the whole way ---


def test_over_mqtt_a_running_station_takes_a_bundle_and_says_what_judges(tmp_path: Path, plant: Plant) -> None:
    from paho.mqtt import publish

    (tmp_path / "allowed").mkdir()
    plant.bundle("2.0.0", threshold=0.9).rename(tmp_path / "allowed" / "b.pipeline")
    with Mosquitto(tmp_path / "broker") as broker:
        section = {
            "initial": str(plant.bundle("1.0.0")),
            "trusted_keys": str(plant.keys),
            "remote": {"folder": str(tmp_path / "allowed")},
        }
        mqtt = {"host": broker.host, "port": broker.port, "commands": ["bundle-install", "bundle-activate"]}
        station = Station(tmp_path / "s", bundle=section, mqtt=mqtt)
        with (
            Listener(broker.port, f"{station.topic}/command/#") as heard,
            Listener(broker.port, f"{station.topic}/status") as status,
            station.running(),
        ):
            status.until(lambda all_: bool(all_) and all_[-1]["state"] == "online")

            def ask(command: str, **fields: Any) -> dict[str, Any]:
                body = json.dumps({"id": command, **fields})
                publish.single(f"{station.topic}/command/{command}", body, qos=1, port=broker.port)
                answers = heard.until(lambda all_: any(one.get("command") == command for one in all_))
                return next(dict(one) for one in answers if one.get("command") == command)

            assert ask("bundle-install", path="b.pipeline")["answer"] == {"installed": "brightness-2.0.0"}
            assert ask("bundle-activate", name="brightness-2.0.0")["answer"]["judges"] == "brightness-2.0.0"
            assert "not allowed here" in ask("bundle-rollback")["error"]
            station.put("a.png", flat_png(180))
            (result,) = station.wait_for(1)
            assert (result["model"]["version"], result["evaluation"]) == ("2.0.0", "OK")
