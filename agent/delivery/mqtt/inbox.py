"""Commands that come in on ``…/command/<name>``, and their answers.

    …/command/trigger  ─▶  ports.Commands  ─▶  …/command/trigger/reply, or the question's own response topic below it

Invariants
- Only fresh commands are obeyed: QoS 0 and a clean session, so that no broker hands over what it kept while the
  station was away, and nothing that is marked as retained, which would come again with every connection. Whoever gets
  no answer sends again, with the same ``id``.
- An answer goes below ``…/command/<name>/`` only: one level deeper than what is listened to, so that it never comes
  back as a command and is never aimed at somebody else.
- A flood costs nothing: beyond ``_RATE`` a second the station stops listening for a while, and says so.
- Answers wait in a short queue for a thread of their own; what does not fit is dropped and counted, never waited for.
"""

from __future__ import annotations

import threading
from collections import deque
from functools import partial

from agent.clock import Clock
from agent.delivery.mqtt.causes import NOT_AUTHORIZED, denied
from agent.delivery.mqtt.connection import Connection
from agent.delivery.mqtt.messages import Message, Note
from agent.health import Health
from agent.logs import log, printable
from agent.ports import Commands

_LOG = log("mqtt")
_RATE, _BURST = 50.0, 100.0  #: commands a second that are listened to for long, and at once
_DEAF_S = 10.0  #: how long nothing is listened to after more than that
_WAITING = 128  #: answers that wait for the broker at most
_NAME = 80  #: characters of a command's name that is answered at all
_ANSWER_S = 5.0
_LOOK_S = 1.0  #: how often the thread looks whether a flood is over
_RETAINED = (
    "retained commands are never obeyed, the broker would give them again at every connection; "
    "send it without retain, and clear this one with an empty retained message"
)


class Inbox:
    """For one station; ``start`` and ``stop`` once. ``connected`` is called on each new connection."""

    def __init__(self, topic: str, commands: Commands, health: Health, clock: Clock) -> None:
        self._base = f"{topic}/command/"
        self._commands, self._health, self._clock = commands, health, clock
        self._thread = threading.Thread(target=self._run, name="mqtt-commands", daemon=True)
        self._changed = threading.Condition()  # guards the four below
        self._connection: Connection | None = None
        self._listening: Connection | None = None  #: where the thread has subscribed, or has been refused
        self._answers = deque[tuple[str, bytes, Note]]()
        self._stopping = False
        self._tokens, self._filled_at = _BURST, clock.monotonic()
        self._deaf_until: float | None = None

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more. Does not wait for an answer that is under way."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def connected(self, connection: Connection) -> None:
        """Listen there. Answers go over the newest connection."""
        with self._changed:
            self._connection = connection
            self._changed.notify_all()

    # --- paho's thread ---

    def heard(self, message: Message) -> None:
        """A command, or what somebody else put under its topic."""
        name = message.topic.removeprefix(self._base)
        if name == message.topic or "/" in name or self._deaf_until is not None:
            return
        if not self._token():
            self._flooded()
            return
        if len(name) > _NAME:
            self._health.count("commands_refused")
            _LOG.warning("command_refused: %s…: no command has so long a name", printable(name[:_NAME]))
            return
        answer = partial(self._answer, self._reply_topic(name, message), message.correlation)
        if not message.retained:
            self._commands.obey(name, message.payload, answer)
        elif message.payload:  # an empty one clears what was retained
            self._commands.refuse(name, message.payload, _RETAINED, answer)

    def _reply_topic(self, name: str, message: Message) -> str:
        """Where the question wants its answer, if that lies below its own topic."""
        below, wanted = f"{self._base}{name}/", message.response_topic or ""
        fits = wanted.startswith(below) and len(wanted) > len(below) and len(wanted.encode()) < 1024
        return wanted if fits and not set(wanted) & set("+#\0") else f"{below}reply"

    def _token(self) -> bool:
        self._tokens, self._filled_at = self._level(), self._clock.monotonic()
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _level(self) -> float:
        return min(_BURST, self._tokens + (self._clock.monotonic() - self._filled_at) * _RATE)

    def _flooded(self) -> None:
        self._deaf_until = self._clock.monotonic() + _DEAF_S
        self._health.count("commands_flooded")
        connection = self._connection
        if connection is not None:
            connection.unsubscribe(f"{self._base}+")
        detail = f"more than {_RATE:g} a second on {self._base}+; nothing is listened to there for {_DEAF_S:g} s"
        if self._health.raise_problem("commands_flooded", detail):
            _LOG.error("commands_flooded: %s; find who sends them", detail)

    # --- any thread: never waits ---

    def _answer(self, topic: str, correlation: bytes | None, payload: bytes) -> None:
        with self._changed:
            full = len(self._answers) >= _WAITING
            if not full:
                self._answers.append((topic, payload, Note(correlation=correlation)))
                self._changed.notify_all()
        if full:
            self._health.count("answers_dropped")

    # --- the thread ---

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._anything, _LOOK_S)
                if self._stopping:
                    return
                answer = self._answers.popleft() if self._answers else None
                connection, news = self._connection, self._connection is not self._listening
                self._listening = connection
            if connection is None:
                continue
            if self._may_hear_again() or (news and self._deaf_until is None):
                self._listen(connection)
            if answer is not None:
                self._send(connection, *answer)

    def _anything(self) -> bool:
        return self._stopping or bool(self._answers) or self._connection is not self._listening

    def _may_hear_again(self) -> bool:
        """After a flood: it is time to listen again."""
        until = self._deaf_until
        if until is not None and self._clock.monotonic() >= until:
            self._tokens, self._filled_at, self._deaf_until = _BURST / 2, self._clock.monotonic(), None
            return True
        if until is None and self._level() == _BURST:
            self._health.over("commands_flooded", "commands are listened to again")
        return False

    def _listen(self, connection: Connection) -> None:
        sent = connection.subscribe(f"{self._base}+", 0, as_published=True)
        if not sent.wait(_ANSWER_S) or sent.code is None:
            return  # the connection is over, or will be
        self._health.clear_problem("answers_denied")  # perhaps no more: the next answer tells
        if sent.code < 128:
            self._health.over("commands_denied")
            return
        detail = denied(connection.settings, f"subscribe to {self._base}+ (SUBACK {sent.code})")
        if self._health.raise_problem("commands_denied", detail):
            _LOG.error("commands_denied: %s", detail)

    def _send(self, connection: Connection, topic: str, payload: bytes, note: Note) -> None:
        if not connection.takes(topic, payload, note):
            self._health.count("answers_dropped")
            size, limit = len(payload), connection.max_packet
            _LOG.warning(
                "answer_dropped: an answer of %d bytes on %s is dropped: the broker takes %d", size, topic, limit
            )
            return
        sent = connection.publish(topic, payload, note=note)
        sent.wait(_ANSWER_S)
        if sent.code is not None and sent.code < 128:
            self._health.over("answers_denied")
            return
        self._health.count("answers_dropped")
        if sent.code == NOT_AUTHORIZED:
            detail = denied(connection.settings, f"publish to {topic}")
            if self._health.raise_problem("answers_denied", detail):
                _LOG.error("answers_denied: %s", detail)
