"""A real mosquitto on loopback, to be stopped, killed and started again, and a subscriber that remembers all."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.support.ports import free_port


class Mosquitto:
    """``with Mosquitto(folder) as broker``. Its folder keeps configuration, log and, when asked to, its sessions."""

    def __init__(
        self,
        folder: Path,
        *,
        anonymous: bool = True,
        lines: Sequence[str] = (),
        host: str = "127.0.0.1",
        within: Sequence[str] = (),
    ) -> None:
        """``within``: words before the command, such as those that lead into a network namespace."""
        self.folder, self.port, self.host, self._within = folder, free_port(), host, within
        folder.mkdir(parents=True, exist_ok=True)
        self._lines = [f"allow_anonymous {'true' if anonymous else 'false'}", *lines]
        self._process: subprocess.Popen[bytes] | None = None

    def lines(self, lines: Sequence[str]) -> None:
        """Other lines of its configuration, from the next start on."""
        self._lines = [self._lines[0], *lines]

    def start(self) -> Mosquitto:
        """Start it on its port and wait until it answers."""
        settings = [f"listener {self.port} {self.host}", "log_type all", *self._lines]
        if os.geteuid() == 0:  # otherwise it becomes a user who cannot read the tests' folders
            settings.append("user root")
        (self.folder / "mosquitto.conf").write_text("\n".join(settings) + "\n")
        with (self.folder / "mosquitto.log").open("ab") as log:
            command = [*self._within, "mosquitto", "-c", str(self.folder / "mosquitto.conf")]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            assert self._process.poll() is None, self.log()
            with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), 1):
                return self
            time.sleep(0.01)  # another process: no event of ours tells when it listens
        raise AssertionError(f"mosquitto does not answer:\n{self.log()}")

    def stop(self) -> None:
        """SIGTERM: the broker disconnects its clients."""
        self._end(lambda process: process.terminate())

    def kill(self) -> None:
        """SIGKILL: connections break, what was in memory is gone."""
        self._end(lambda process: process.kill())

    def reload(self) -> None:
        """SIGHUP: it reads its access list and passwords anew."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def _end(self, how: Callable[[subprocess.Popen[bytes]], None]) -> None:
        if self._process is not None:
            how(self._process)
            self._process.wait(10)
            self._process = None

    def log(self) -> str:
        """What it said so far."""
        return (self.folder / "mosquitto.log").read_text(errors="replace")

    def passwords(self, **users: str) -> list[str]:
        """Configuration lines for these users; to be given as ``lines``."""
        return passwords(self.folder, **users)

    def __enter__(self) -> Mosquitto:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()


def passwords(folder: Path, **users: str) -> list[str]:
    """A password file in ``folder`` and the configuration line that names it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "passwords"
    file.touch(mode=0o600)
    for name, password in users.items():
        subprocess.run(["mosquitto_passwd", "-b", str(file), name, password], check=True, capture_output=True)
    return [f"password_file {file}"]


class Listener:
    """An independent MQTT 5 subscriber that reconnects by itself and keeps its session over a restart."""

    def __init__(
        self,
        port: int,
        topic: str,
        *,
        username: str | None = None,
        password: str | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.messages: list[MQTTMessage] = []
        self.changed = threading.Condition()
        self._topic, self._host, self._port, self._subscribed = topic, host, port, threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2, client_id=f"listener-{uuid.uuid4()}", protocol=MQTTv5)
        self._client.reconnect_delay_set(1, 1)
        if username is not None:
            self._client.username_pw_set(username, password)
        self._client.on_connect = lambda client, *_: client.subscribe(topic, 1)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._heard

    def start(self) -> Listener:
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 300
        self._client.connect(self._host, self._port, clean_start=False, properties=properties)
        self._client.loop_start()
        assert self._subscribed.wait(10), f"not subscribed to {self._topic}"
        return self

    def _heard(self, _client: Client, _userdata: Any, message: MQTTMessage) -> None:
        with self.changed:
            self.messages.append(message)
            self.changed.notify_all()

    def until(self, condition: Callable[[list[Any]], bool], timeout: float = 30.0) -> list[Any]:
        """Wait until the payloads heard so far, as JSON, meet a condition; all of them."""
        with self.changed:
            if not self.changed.wait_for(lambda: condition(self.json()), timeout):
                raise AssertionError(f"heard only {self.json()[-3:]!r} on {self._topic}")
            return self.json()

    def json(self) -> list[Any]:
        """The payloads; an empty one (a retained message that was cleared) is left out."""
        return [json.loads(bytes(message.payload)) for message in self.messages if message.payload]

    def stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        # A cycle with its callbacks would keep its sockets open until the garbage collector comes.
        self._client.on_connect = self._client.on_subscribe = self._client.on_message = None

    def __enter__(self) -> Listener:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()


@contextlib.contextmanager
def broker_and_listener(folder: Path, topic: str, lines: Sequence[str] = ()) -> Iterator[tuple[Mosquitto, Listener]]:
    """Both, started."""
    with Mosquitto(folder, lines=lines) as broker, Listener(broker.port, topic) as listener:
        yield broker, listener
