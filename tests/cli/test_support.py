"""``weldwatch support``: everything that helps is in it, and no secret, wherever it was written."""

from __future__ import annotations

import errno
import json
import os
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agent.cli import service
from agent.cli.main import main
from agent.cli.support import contents, redaction
from agent.config import load
from tests.support.bundles import flat_png
from tests.support.station import Station, weldwatch

SECRETS = ("hunter2-mqtt", "camera-pässword", "tok3n-of-the-webhook", "T0K/B0X/s3cr3tpath", "line3-operator",
           "env-broker-pw", "MC4CAQAwBQYDK2VwBCIEIA")  # fmt: skip


@pytest.fixture
def station(tmp_path: Path) -> Station:
    """Secrets in every place that the configuration allows, and where it does not."""
    files = {"mqtt": SECRETS[0], "camera": SECRETS[1], "token": SECRETS[2]}
    for name, secret in files.items():
        (tmp_path / f"{name}-secret").write_text(f"{secret}\n", encoding="utf-8")
    key = tmp_path / "station.key"
    key.write_text(f"-----BEGIN PRIVATE KEY-----\n{SECRETS[6]}\n-----END PRIVATE KEY-----\n")
    station = Station(
        tmp_path / "s",
        mqtt={"brokers": [{"host": "127.0.0.1", "port": 1, "username": SECRETS[4],
                           "password_file": str(tmp_path / "mqtt-secret")},
                          {"host": "localhost", "port": 1, "username": SECRETS[4], "password_env": "BROKER_PW"}]},
        webhook={"url": f"https://127.0.0.1:1/{SECRETS[3]}?sig={SECRETS[3]}",
                 "token_file": str(tmp_path / "token-secret")},
    )  # fmt: skip
    station.settings["sources"].append(
        {"type": "camera", "name": "torch", "url": "http://127.0.0.1:1/stream", "username": SECRETS[4],
         "password_file": str(tmp_path / "camera-secret"), "stall_s": 0.5}
    )  # fmt: skip
    station.write()
    return station


def pack(station: Station, *arguments: str) -> dict[str, bytes]:
    out = station.root / "support.tar.gz"
    done = weldwatch("support", "--config", station.file, "--out", out, *arguments, env=environment())
    assert done.returncode == 0, done.stderr
    assert out.stat().st_mode & 0o777 == 0o600
    with tarfile.open(out) as packed:
        found = {entry.name.partition("/")[2]: packed.extractfile(entry) for entry in packed}
        parts = {name: file.read() for name, file in found.items() if file}
    assert all(name in done.stdout for name in parts), "it says what is in it"
    return parts


def environment() -> dict[str, str]:
    return {**os.environ, "BROKER_PW": SECRETS[5]}


def assert_clean(parts: dict[str, bytes]) -> None:
    for name, data in parts.items():
        for secret in SECRETS:
            assert secret not in data.decode(errors="replace"), f"{secret} is in {name}"


def test_it_holds_what_helps_and_no_secret(station: Station) -> None:
    station.settings["sources"] = station.settings["sources"][:1]
    station.put("A17.png", flat_png(250))
    del station.settings["mqtt"], station.settings["webhook"]
    whole = dict(station.settings)
    station.write()
    assert station.once().returncode == 0
    station.settings = whole
    station.settings["mqtt"] = {"host": "127.0.0.1", "port": 1, "username": SECRETS[4]}
    station.write()
    parts = pack(station)
    assert set(parts) == {"README.txt", "configuration.yaml", "versions.json", "journal.txt", "check.json",
                          "outbox.json", "statistics.json"}  # fmt: skip
    assert_clean(parts)
    assert json.loads(parts["statistics.json"])["results"] == 1
    assert {sink["name"] for sink in json.loads(parts["outbox.json"])["sinks"]} == {"files"}
    assert "onnxruntime" in json.loads(parts["versions.json"])["packages"]
    assert any(finding["name"] == "bundle" for finding in json.loads(parts["check.json"]))
    assert yaml.safe_load(parts["configuration.yaml"])["mqtt"]["username"] == redaction.REMOVED


def test_secrets_of_every_section_are_removed(station: Station) -> None:
    parts = pack(station)
    assert_clean(parts)
    shown = yaml.safe_load(parts["configuration.yaml"])
    assert shown["webhook"]["url"] == "https://127.0.0.1:1/(removed)"
    assert shown["mqtt"]["brokers"][0]["password_file"].endswith("mqtt-secret"), "a path is no secret, and helps"


def test_a_wrong_configuration_is_packed_too(station: Station) -> None:
    """A password where none may be is the likeliest reason to ask for help."""
    station.settings["mqtt"]["password"] = "in-the-wrong-place-1"
    station.write()
    with station.file.open("a") as file:
        file.write("# password: in-a-comment-2\n")
    parts = pack(station)
    assert b"unknown key" in parts["configuration.yaml"]
    assert_clean(parts)
    for secret in ("in-the-wrong-place-1", "in-a-comment-2"):
        assert all(secret.encode() not in data for data in parts.values())


def test_images_only_when_asked_for(station: Station) -> None:
    station.settings = {key: value for key, value in station.settings.items() if key not in ("mqtt", "webhook")}
    station.settings["sources"] = station.settings["sources"][:1]
    station.write()
    for number in range(3):
        station.put(f"{number}.png", flat_png(40 * number))
    assert station.once().returncode == 0
    (station.captures / "2.png").unlink()
    (station.captures / "2.png").symlink_to("/etc/passwd")
    parts = pack(station, "--frames", "2")
    assert sorted(name for name in parts if name.startswith("frames/")) == ["frames/000_1.png"]


def test_a_file_that_is_there_is_not_overwritten(station: Station) -> None:
    (station.root / "there").write_text("mine")
    done = weldwatch("support", "--config", station.file, "--out", station.root / "there")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert (station.root / "there").read_text() == "mine"


def test_a_folder_that_does_not_take_it_is_one_line(station: Station) -> None:
    done = weldwatch("support", "--config", station.file, "--out", station.root / "nowhere" / "s.tar.gz")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "--out: " in done.stderr


def test_what_root_packs_in_a_folder_of_its_own_is_done(
    station: Station, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Opened as root, gone on as the agent's user: from then on the folder is out of reach."""
    here, there = station.root / "here", station.root / "there"
    here.mkdir()

    def gather(*_: object) -> Iterator[tuple[str, bytes]]:
        yield "README.txt", b"x"
        here.rename(there)

    monkeypatch.setattr(contents, "gather", gather)
    assert main(["support", "--config", str(station.file), "--out", str(here / "s.tar.gz")]) == 0
    assert "s.tar.gz (" in capsys.readouterr().out
    assert (there / "s.tar.gz").stat().st_size > 20


def test_an_image_that_cannot_be_read_keeps_no_other_from_being_packed(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    station.settings = {key: value for key, value in station.settings.items() if key not in ("mqtt", "webhook")}
    station.settings["sources"] = station.settings["sources"][:1]
    station.write()
    for number in range(2):
        station.put(f"{number}.png", flat_png(40 * number))
    assert station.once().returncode == 0
    real = Path.read_bytes

    def read_bytes(self: Path) -> bytes:
        if self.name == "0.png":
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return real(self)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    found = dict(contents._frames(load(station.file), 2))
    assert {name.partition("_")[2] for name in found} == {"1.png", "0.png.txt"}
    assert b"missing: Permission denied\n" in found.values()


def test_a_fault_of_one_part_keeps_no_other_from_being_packed(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    def falls(*_: object) -> object:
        raise ValueError(f"password: {SECRETS[0]}")

    monkeypatch.setattr(contents, "_check", falls)
    parts = dict(contents.gather(station.file, 0))
    assert json.loads(parts["check.json"])["missing"] == "unexpected: ValueError: password: (removed)"
    assert "in falls" in json.loads(parts["check.json"])["fault"]
    assert {"outbox.json", "statistics.json"} <= parts.keys()
    assert_clean(parts)


def test_the_journal_is_that_of_the_unit_that_runs_this_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    units, tools = tmp_path / "units", tmp_path / "tools"
    for made in (units, tools):
        made.mkdir()
    monkeypatch.setattr(service, "FOLDERS", [units])
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    (tools / "journalctl").write_text('#!/bin/sh\necho "$1"\n')
    (tools / "journalctl").chmod(0o755)
    for unit, name in (("weldwatch.service", "agent"), ("weldwatch@.service", "%i")):
        (units / unit).write_text(f"[Service]\nExecStart=/opt/weldwatch run --config {tmp_path}/{name}.yaml\n")
    for name, unit in (("agent", "weldwatch"), ("line2", "weldwatch@line2"), ("nowhere/x", "weldwatch")):
        said = contents._journal(tmp_path / f"{name}.yaml")
        assert said.splitlines() == [f"# {unit}.service", f"--unit={unit}.service"]


# --- the redaction by itself ---


def test_a_secret_is_known_in_json_too() -> None:
    secret = 'grün"und\\blau'
    text = json.dumps({"detail": f"the broker says {secret}: no"})
    assert redaction.Scrubber({"password": secret}).text(text) == text.replace(json.dumps(secret)[1:-1], "(removed)")


PLANTED = [
    "connecting to rtsp://admin:S3CRET@10.0.0.20/stream",
    "connecting to rtsp://admin:p@S3CRET/w@10.0.0.20/stream",
    "mqtt://S3CRET@broker:1883",
    'the broker {"url":"mqtts://cam:S3CRET@broker:8883"}',
    "Authorization: Bearer S3CRET",
    "Authorization: Basic S3CRET==",
    '{"Authorization": "Basic S3CRET=="}',
    'authorization: Digest username="cam", realm="x", response="S3CRET"',
    "< Set-Cookie: session=S3CRET; Path=/",
    "X-Api-Key: S3CRET",
    "X-Auth-Token: S3CRET",
    "sent with bearer S3CRET-of-9-days",
    "got eyJhbGciOiJIUzI1NiJ9.S3CRET.S3CRET from it",
    "GET /hook?id=1&token=S3CRET HTTP/1.1",
    "GET /hook?key=S3CRET HTTP/1.1",
    "https://plant.example/hook?id=1&X-Amz-Signature=S3CRET",
    'password: "S3CRET"',
    'password: "four S3CRET words in it"',
    "password: nullS3CRET",
    "password: not-S3CRET",
    '{"password": "S3CRET"}',
    r'body "{\"client_secret\": \"S3CRET with blanks\"}"',
    "MQTT_PASSWORD=S3CRET weldwatch run",
    "Environment=BROKER_TOKEN=S3CRET",
    "access_token: S3CRET",
    "username=S3CRET",
    "api_key=S3CRET next",
    "api-key: S3CRET",
    "ExecStart=mosquitto_sub -h broker -u cam -P S3CRET -t '#'",
    "curl --password S3CRET",
    "curl -s -u cam:S3CRET https://plant.example",
    "curl --user cam:S3CRET https://plant.example",
    "PGPASSWORD=S3CRET psql",
    "MQTT_PW=S3CRET weldwatch run",
    "Passwort: S3CRET",
    "pasword: S3CRET",
    "-----BEGIN EC PRIVATE KEY-----\nS3CRET\n-----END EC PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----\n10:22:05 app[7]: MIIEvgIBADANBgkqhkiGS3CRET/9w0BAQ\n10:22:05 app[7]: (and cut)",
]

#: Look like some of it and are none of it: without them a pack helps nobody.
HARMLESS = [
    "sha256 3f1234cam07abbadeadbeef00weldwatch5",
    "result 01a2038d-9875-7f5f-b210-7afc0bc74761 of sequence 123456",
    "weldwatch/acme/detroit/body/line-3/cam-07/status",
    "agent.yaml: mqtt.password: unknown key; allowed: host, port",
    "mqtt.password_file: /etc/weldwatch/credentials/mqtt-password: No such file or directory",
    "mqtt.tls.key: credential:mqtt-key: only a service has credentials",
    "bundle.trusted_keys: not set: unsigned bundles are taken",
    "sources[0].path: key of the map is missing",
    "sort_key=time&monkey=1",
    "GET /list?sort_key=time&author=plant&signal=3&passed=4 HTTP/1.1",
    "unexpected token: '}' at 17",
    "the broker refuses user name or password; results are kept",
    "user: the rest is tried as weldwatch",
    "a bearer of good news and a tokenizer=wordpiece",
    "https://plant.example:8443/models/weld@1.0.0",
    "weldwatch.service (user weldwatch) may reach every path",
    "LoadCredential=mqtt-key:/etc/weldwatch/credentials/mqtt-key.pem",
    "passed: 12, compass=north, keyboard: de, secretary=7",
    "POST https://plant.example/(removed) answers 403",
    "3f1234cam07abbadeadbeef00 after (removed)",
]


@pytest.mark.parametrize("text", PLANTED)
def test_what_looks_like_a_secret_goes_from_any_text(text: str) -> None:
    assert "S3CRET" not in redaction.Scrubber(None).text(f"10:22:05 {text}\nthe next line")
    assert redaction.Scrubber(None).text(f"10:22:05 {text}\nthe next line").startswith("10:22:05 ")


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_like_one_stays(text: str) -> None:
    """Also on a station whose user name and PIN are words of the whole text, and whose webhook has a plain path."""
    value = {
        "station": {"name": "cam-07", "site": "detroit"},
        "mqtt": {"username": "weldwatch", "password": "1234"},
        "webhook": {"url": "https://mes.plant/models"},
    }
    assert redaction.Scrubber(value).text(text) == text


def test_an_ordinary_user_name_goes_where_it_is_named_as_one_and_a_plain_path_after_its_host() -> None:
    value = {"mqtt": {"username": "weldwatch", "password": "1234"}, "webhook": {"url": "https://mes.plant:8443/models"}}
    text = "username: weldwatch, PIN 1234; POST https://mes.plant:8443/models to mqtt://weldwatch:1234@h"
    assert redaction.Scrubber(value).text(text) == (
        "username: (removed), PIN (removed); POST https://mes.plant:8443/(removed) to mqtt://(removed)@h"
    )


@pytest.mark.parametrize("key", ["pasword", "passwort", "password1", "pw", "mqtt_pw", "kennwort"])
def test_a_key_that_is_misspelled_names_a_secret_all_the_same(key: str) -> None:
    assert redaction.settings({"mqtt": {key: "Hunter22geheim"}}) == {"mqtt": {key: redaction.REMOVED}}
    assert "Hunter22" not in redaction.Scrubber({"mqtt": {key: "Hunter22geheim"}}).text("it says Hunter22geheim")
    assert redaction.settings({"password_file": "/a", "password_env": "B"}) == {
        "password_file": "/a",
        "password_env": "B",
    }


def test_what_stands_under_a_key_that_there_is_not_goes(tmp_path: Path) -> None:
    source = tmp_path / "agent.yaml"
    source.write_text(
        "station: {name: cam-07}\nmqtt: {host: broker.example, losung: Hunter22geheim}\nzugang: [Kennwort99]\n"
        "sources: [{type: folder, name: captures, path: /captures}]\n"
    )
    packed = dict(contents.gather(source, 0))["configuration.yaml"].decode()
    assert "# wrong: " in packed
    assert "unknown key" in packed
    assert "Hunter22" not in packed
    assert "Kennwort99" not in packed
    for kept in ("name: cam-07", "host: broker.example", "losung: ", "type: folder", "path: /captures"):
        assert kept in packed


def test_a_fence_in_a_message_takes_nothing_else_with_it() -> None:
    text = "PEM must begin with -----BEGIN PRIVATE KEY-----\n10:22:05 INFO station cam-07 watches captures"
    assert redaction.Scrubber(None).text(text).endswith("watches captures")


@pytest.mark.parametrize(
    "part", ["x-", "mosquitto_x ", "a_", "password", "-----BEGIN PRIVATE KEY-----", 'token:"', "://a:"]
)
def test_a_text_made_to_be_slow_is_not(part: str) -> None:
    begin = time.monotonic()
    redaction.Scrubber(None).text(part * (100_000 // len(part)))
    assert time.monotonic() - begin < 5


def test_a_key_beside_ours_is_known_by_its_fence(tmp_path: Path) -> None:
    """The fences of our own key are no secrets that could be taken out first."""
    fenced = "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n"
    (tmp_path / "station.key").write_text(fenced.format("MINE0001"))
    text = redaction.Scrubber({"tls": {"key": str(tmp_path / "station.key")}}).text(fenced.format("OTHER002"))
    assert "OTHER002" not in text


@given(
    st.sampled_from(["password", "token", "username", "api_key", "client_secret", "passphrase"]),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=40),
    st.sampled_from([lambda v: {"a": v}, lambda v: {"a": [v, {"b": v}]}, lambda v: [{"mqtt": v}]]),
)
def test_whatever_the_configuration_calls_a_secret_is_in_no_text(key: str, secret: str, around: Any) -> None:
    secret = f"~{secret}~"
    value = around({key: secret})
    assert secret not in json.dumps(redaction.settings(value))
    assert secret not in redaction.Scrubber(value).text(f"the agent said {secret} and {secret}!")
