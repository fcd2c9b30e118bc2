"""The primary host application: is it there to take what is sent?

It says so on ``spBv1.0/STATE/<its id>``, retained: ``{"online": true, "timestamp": …}``, and its last will says false.
"""

from __future__ import annotations

import msgspec


class PrimaryHost:
    """What one connection heard of it. Without an ``id`` nobody is waited for."""

    def __init__(self, host_id: str | None) -> None:
        self.topic = f"spBv1.0/STATE/{host_id}" if host_id else None
        self.online = host_id is None
        self._at = -1

    def heard(self, payload: bytes) -> bool:
        """Take in a message of its topic. True when it was away, perhaps unnoticed, or goes.

        What is older than what is known, such as a late last will, does not count.
        """
        try:
            told = msgspec.json.decode(payload, type=_State)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        if told.timestamp < self._at:
            return False
        news = told.online != self.online or told.timestamp > self._at
        self.online, self._at = told.online, told.timestamp
        return news


class _State(msgspec.Struct):
    online: bool
    timestamp: int
