"""The Sparkplug sink: each result as a DDATA message of its device, in order of ``sequence``, at least once.

Invariants
- The cursor moves with what the broker handed back to us (see ``session``), and with nothing else.
- What the agent's last life sent in its last seconds is in doubt: the host may have died with it, and only a running
  agent knows that. It comes again at the start, as history.
- After any trouble the next result goes alone. It is given up only when the broker swallowed it three times in a row
  and each time handed on what came behind it, or ended five sessions in a row that had just been seen to work
  (``delivery.suspect``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from agent.clock import Clock
from agent.config import AgentConfig
from agent.config.sparkplug import SparkplugConfig
from agent.delivery.access import Tls
from agent.delivery.mqtt.connection import Connection
from agent.delivery.mqtt.settings import Settings, client_id_for, settings_of
from agent.delivery.sparkplug.memory import OVERLAP_FILE, BirthCount, Memory, Overlap
from agent.delivery.sparkplug.names import DeniedError, Names, SwallowedError
from agent.delivery.sparkplug.node import EdgeNode
from agent.delivery.sparkplug.session import WINDOW, Session
from agent.delivery.suspect import STRIKES, Suspect
from agent.errors import RejectError, RetryError, UsageError
from agent.health import Health
from agent.ports import Pace, Stored

_STRIKES = 3
_QUIET_S = 2.0  #: how long a session must have lasted before the suspect goes out …
_STRIKE_WITHIN_S = 2.0  #: … and how soon it must end then, where nothing else was ever taken
_WAIT_FOR_SESSION_S = 1.0


class SparkplugSink:
    """``ports.Sink``, ``Unsure``, ``Replaying``. Constructing it connects nothing; ``open`` starts that, in a thread.

    ``newest`` gives the last result of the ledger, which the births show as the present one; ``labels`` those of the
    model that judges. ``UsageError`` for certificates or secrets that cannot be read.
    """

    name = "sparkplug"
    pace = Pace(batch=100, problem_after_s=None)

    def __init__(
        self,
        config: AgentConfig,
        newest: Callable[[], Stored | None],
        labels: Iterable[str],
        health: Health,
        clock: Clock,
        taken: Callable[[], Stored | None] = lambda: None,
    ) -> None:
        """``newest()``: of the ledger, for births; ``taken()``: what came back last in an earlier life of the agent."""
        ours = _section(config)
        state = Path(config.state)
        overlap = Overlap(ours.overlap_s, clock, state / OVERLAP_FILE)
        memory, count = Memory(newest, labels, overlap), BirthCount(state)
        self._before = overlap.before()
        self._node = EdgeNode(_brokers(config, health), _names(config), ours.primary_host, memory, count, health, clock)
        self._alone = False
        self._swallowed, self._strikes = "", 0
        self._clock, self._suspects = clock, {again: Suspect(taken) for again in (False, True)}
        self._suspect = self._suspects[False]  #: of the lane that is being delivered
        self._ended = threading.Event()  #: of the session in use; holding itself would keep its sockets open

    def open(self, wake: Callable[[], None]) -> None:
        """Begin to connect."""
        self._node.start(wake)

    def close(self) -> None:
        """Death certificates, and disconnect."""
        self._node.stop()

    def deliver(self, batch: Sequence[Stored]) -> int:
        """Publish from the front; how many came back from the broker."""
        return self._send(batch)

    def doubt(self) -> int | None:
        """``ports.Unsure``: at the start, where begins what was sent just before the end of the last life."""
        first, self._before = self._before, None
        return first

    def deliver_again(self, batch: Sequence[Stored]) -> int:
        """``ports.Replaying``: the same, as history."""
        return self._send(batch, again=True)

    def _send(self, batch: Sequence[Stored], *, again: bool = False) -> int:
        session = self._node.session(_WAIT_FOR_SESSION_S)
        if session.connection.ended is not self._ended:
            self._ended = session.connection.ended
            for suspect in self._suspects.values():
                suspect.connected()
        self._suspect = self._suspects[again]
        if self._suspect.is_(batch[0]):
            self._see_it_work(session)
        alone = self._alone or self._suspect.goes_alone(batch[0])
        self._alone = True  # unless all goes well
        sent_at = self._clock.monotonic()
        try:
            back = session.send(batch, alone=alone, again=again)
        except SwallowedError as error:
            if alone and self._strike(batch[0]):
                raise RejectError(
                    f"the broker swallowed it {_STRIKES} times, and handed on what came behind it"
                ) from None
            raise error
        except DeniedError as error:
            self._denied(session, error)
            raise
        except RetryError:
            if self._broke(session, batch, sent_at):
                raise RejectError(f"the broker ended the session {STRIKES} times in a row when it was sent") from None
            raise
        if back:
            self._suspect.accepted(batch[back - 1])
        self._alone = back < (1 if alone else len(batch))
        self._strikes = 0
        self._node.allowed()
        return back

    def _see_it_work(self, session: Session) -> None:
        """Before the suspect goes out. ``RetryError`` when the session breaks without it."""
        if session.connection.ended.wait(_QUIET_S):
            raise RetryError("the session ended by itself")
        if (other := self._suspect.wants_proof) is not None:
            try:
                session.send([other], alone=True, again=True)
            except DeniedError as error:
                self._denied(session, error)
                raise
            except RejectError as error:
                raise RetryError(f"what the broker took before it takes no more: {error}") from None
            self._suspect.accepted(other)

    def _denied(self, session: Session, error: DeniedError) -> None:
        self._node.denied(str(error), data=True)
        session.connection.drop("did not hand back what was published")

    def _broke(self, session: Session, batch: Sequence[Stored], sent_at: float) -> bool:
        """Whether the first is to be given up, because it is what ends sessions."""
        end = session.connection.end
        if end is None or not end.by_broker:
            return False
        self._suspect.lost(batch[min(len(batch), WINDOW) - 1])
        soon = self._clock.monotonic() - sent_at <= _STRIKE_WITHIN_S
        return self._suspect.broke(batch[0], begun=True, soon=soon)

    def _strike(self, one: Stored) -> bool:
        self._strikes = self._strikes + 1 if self._swallowed == one.result_id else 1
        self._swallowed = one.result_id
        return self._strikes >= _STRIKES


def probe(config: AgentConfig) -> str | None:
    """Connect to each broker as the edge node would, under another client id; what is wrong, or None.

    The embedded broker lives in a running agent only, and is not tried.
    """
    if _section(config).broker is None and config.mqtt is not None and config.mqtt.embedded:
        return None
    try:
        for settings in _brokers(config):
            connection = Connection(replace(settings, client_id=f"{settings.client_id[:50]}-check"))
            connection.open()
            connection.goodbye()
    except (RetryError, UsageError) as error:
        return str(error)
    return None


def _section(config: AgentConfig) -> SparkplugConfig:
    return config.sparkplug or SparkplugConfig()


def _names(config: AgentConfig) -> Names:
    ours = _section(config)
    return Names(config.named(ours.group), config.named(ours.node), config.named(ours.device))


def _brokers(config: AgentConfig, health: Health | None = None) -> list[Settings]:
    """The broker of ``sparkplug``, or those of ``mqtt`` in their order."""
    ours = _section(config)
    names = _names(config)
    client_id = ours.client_id or client_id_for(names.of_node("node"))
    if ours.broker is None:
        if config.mqtt is None:
            raise UsageError("sparkplug.broker: missing; name the broker")
        shared = [settings_of(one, "", health) for one in config.mqtt.each()]
        return [
            replace(one, client_id=client_id, keepalive_s=ours.keepalive_s, protocol=ours.protocol or one.protocol)
            for one in shared
        ]
    broker = ours.broker
    settings = Settings(
        host=broker.host,
        port=broker.port or (8883 if broker.tls else 1883),
        client_id=client_id,
        keepalive_s=ours.keepalive_s,
        protocol=ours.protocol or 5,
        tls=Tls(broker.tls, "sparkplug.broker", health) if broker.tls else None,
        username=broker.username,
        password_file=broker.password_file,
        password_env=broker.password_env,
        section="sparkplug.broker",
    )
    settings.password()
    return [settings]
