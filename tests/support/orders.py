"""Telling a station something over MQTT, as an MES does: a command, and its answer."""

from __future__ import annotations

import json
import uuid
from typing import Any

from paho.mqtt import publish

from tests.support.mosquitto import Listener


def tell(port: int, topic: str, command: str, **wishes: Any) -> dict[str, Any]:
    """Send a command to the station at ``topic``; its answer, which has no id where the command was not understood.

    Sent again while nothing listens yet, as ids allow.
    """
    name = str(uuid.uuid4())
    with Listener(port, f"{topic}/command/{command}/reply") as replies:
        for _ in range(20):
            body = json.dumps({"id": name, **wishes})
            publish.single(f"{topic}/command/{command}", body, qos=1, hostname="127.0.0.1", port=port)
            try:
                heard = replies.until(lambda all_: any(one["id"] in (name, None) for one in all_), 1.0)
            except AssertionError:
                continue
            return next(dict(one) for one in heard if one["id"] in (name, None))
    raise AssertionError(f"no answer to {command}")
