"""``credential:<name>`` in the configuration: what systemd hands to the service, for every password and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config import MqttConfig, TlsConfig
from agent.credentials import secret_path
from agent.delivery.access import secret, tls_context
from agent.errors import UsageError
from tests.support.certificates import authority


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    return tmp_path


def test_a_password_is_read_from_the_services_own_folder(folder: Path) -> None:
    (folder / "mqtt-password").write_text("secret\n")
    config = MqttConfig(host="b", username="u", password_file="credential:mqtt-password")
    assert secret(config.password_file, None, "mqtt") == "secret"
    assert secret_path("/etc/weldwatch/password", "mqtt.password_file") == Path("/etc/weldwatch/password")


@pytest.mark.parametrize("name", ["", "../shadow", "/etc/shadow", "a/b", ".hidden", "a\nb"])
def test_a_name_leads_to_no_other_folder(folder: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"mqtt\.password_file: found .*the name of a credential"):
        secret_path(f"credential:{name}", "mqtt.password_file")


def test_a_credential_that_is_not_there_says_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"mqtt\.password_file: credential:none: No such file"):
        secret("credential:none", None, "mqtt")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    with pytest.raises(UsageError, match="only a service has credentials; to try it by hand"):
        secret("credential:none", None, "mqtt")


def test_keys_of_tls_are_credentials_too(folder: Path) -> None:
    cert, key = authority(folder / "made").issue("cam-07")
    key.rename(folder / "key")
    assert tls_context(TlsConfig(cert=str(cert), key="credential:key"), "mqtt")
    with pytest.raises(UsageError, match=r"mqtt\.tls\.key: .*none: no such file"):
        tls_context(TlsConfig(cert=str(cert), key="credential:none"), "mqtt")
