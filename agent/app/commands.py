"""What the station can be told from outside: checked, carried out one after the other, answered.

    {"id": "17", "source": "torch"}  ─▶  {"command": "trigger", "id": "17", "ok": true, "at": …, "answer": {…}}
                                         {"command": "trigger", "id": "17", "ok": false, "at": …, "error": "…"}

Invariants
- Only what the configuration lists is obeyed; everything else is answered with what is wrong, and changes nothing.
- An ``id`` that was met before gets the answer it got, and is not carried out again: who gets no answer sends again.
- Whoever brings a command never waits: one worker carries out, and a queue that is full is answered as such.
"""

from __future__ import annotations

import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Meta

from agent.clock import Clock, iso_utc
from agent.errors import WeldwatchError
from agent.health import Health
from agent.logs import log, printable

MAX_BODY = 64 * 1024  #: bytes
_WAITING = 32  #: commands that wait for the worker at most
_REMEMBERED = 256  #: answers kept for an ``id`` that comes again
_log = log("commands")

Outcome = Mapping[str, Any]
Answer = Callable[[bytes], None]


#: What names one command, so that it may come twice.
Id = Annotated[str, Meta(max_length=200)] | int | None


class Wishes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every command may carry. A command's own wishes are fields of a subclass."""

    id: Id = None


class _Named(msgspec.Struct):
    """The ``id`` of a command that is not looked at any further."""

    id: Id = None


_W = TypeVar("_W", bound=Wishes)


@dataclass(frozen=True)
class Order(Generic[_W]):
    """A command: what it takes, and what carries it out.

    ``work`` runs in the worker; a ``WeldwatchError`` becomes the answer's ``error``. What takes its time or waits for
    the line returns a future instead, and the worker goes on.
    """

    wishes: type[_W]
    work: Callable[[_W], Outcome | Future[Outcome]]


class RefusedError(WeldwatchError):
    """A command that is not carried out."""


class Commands:
    """``ports.Commands``. ``start`` once, ``stop`` once."""

    def __init__(
        self, orders: Mapping[str, Order[Any]], allowed: Collection[str], health: Health, clock: Clock
    ) -> None:
        self._orders, self._allowed, self._health, self._clock = orders, frozenset(allowed), health, clock
        self._waiting: queue.Queue[Callable[[], None] | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._run, name="commands", daemon=True)
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._told: OrderedDict[tuple[str, Id], bytes | None] = OrderedDict()  # None: still being carried out

    def start(self) -> None:
        """Begin to carry out."""
        self._thread.start()

    def stop(self) -> None:
        """Carry out no more; what waits is not answered."""
        self._stopping.set()
        try:
            self._waiting.put_nowait(None)
        except queue.Full:
            pass  # then the worker does not wait either, and looks before each

    def obey(self, name: str, body: bytes, answer: Answer) -> None:
        """See ``ports.Commands``."""
        identity: Id = None
        try:
            order = self._order(name)
            identity, wishes = _read(body, order)
            if identity is not None and self._known(name, identity, answer):
                return
            self._waiting.put_nowait(partial(self._carry_out, name, order, wishes, answer))
        except RefusedError as refusal:
            self.refuse(name, body, str(refusal), answer)
        except queue.Full:
            self._forget(name, identity)
            self._refuse(name, identity, f"{_WAITING} commands are waiting already; send it again later", answer)

    def refuse(self, name: str, body: bytes, why: str, answer: Answer) -> None:
        """See ``ports.Commands``."""
        try:
            identity = msgspec.json.decode(body, type=_Named).id if len(body) <= MAX_BODY else None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            identity = None
        answer(self._refusal(name, identity, why))

    def _order(self, name: str) -> Order[Any]:
        if name not in self._orders:
            raise RefusedError(f"no such command; this station knows {', '.join(sorted(self._orders))}")
        if name not in self._allowed:
            raise RefusedError(f"not allowed here; add {name} to mqtt.commands in the station's configuration")
        return self._orders[name]

    def _known(self, name: str, identity: Id, answer: Answer) -> bool:
        with self._lock:
            if (name, identity) not in self._told:
                self._told[name, identity] = None
                while len(self._told) > _REMEMBERED:
                    self._told.popitem(last=False)
                return False
            told = self._told[name, identity]
        if told is not None:
            answer(told)
        return True

    def _forget(self, name: str, identity: Id) -> None:
        with self._lock:
            self._told.pop((name, identity), None)

    # -- the worker --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (work := self._waiting.get()) is not None and not self._stopping.is_set():
            work()

    def _carry_out(self, name: str, order: Order[Any], wishes: Wishes, answer: Answer) -> None:
        try:
            outcome = order.work(wishes)
        except Exception as error:  # noqa: BLE001  # a command must not end the worker: answered and logged by _settle
            failed: Future[Outcome] = Future()
            failed.set_exception(error)
            outcome = failed
        if isinstance(outcome, Future):
            outcome.add_done_callback(lambda done: self._settle(name, wishes.id, done, answer))
        else:
            self._accept(name, wishes.id, outcome, answer)

    def _settle(self, name: str, identity: Id, done: Future[Outcome], answer: Answer) -> None:
        error = done.exception()
        if error is None:
            self._accept(name, identity, done.result(), answer)
        elif isinstance(error, WeldwatchError):
            self._refuse(name, identity, str(error), answer)
        else:
            _log.error("command_failed: %s: unexpected %r", name, error, exc_info=error)
            self._refuse(name, identity, "a fault of the agent; its log has the cause", answer)

    def _accept(self, name: str, identity: Id, outcome: Outcome, answer: Answer) -> None:
        self._health.count("commands_obeyed")
        shown = ", ".join(f"{key} {value}" for key, value in outcome.items())[:300]
        _log.info("command %s: %s", name, shown or "done")
        self._tell(name, identity, self._said(name, identity, {"ok": True, "answer": dict(outcome)}), answer)

    def _refuse(self, name: str, identity: Id, error: str, answer: Answer) -> None:
        self._tell(name, identity, self._refusal(name, identity, error), answer)

    def _refusal(self, name: str, identity: Id, error: str) -> bytes:
        self._health.count("commands_refused")
        _log.warning("command_refused: %s: %s", printable(name)[:80], error)
        return self._said(name, identity, {"ok": False, "error": error})

    def _said(self, name: str, identity: Id, outcome: dict[str, Any]) -> bytes:
        return msgspec.json.encode({"command": name, "id": identity, "at": iso_utc(self._clock.now()), **outcome})

    def _tell(self, name: str, identity: Id, told: bytes, answer: Answer) -> None:
        with self._lock:
            if (name, identity) in self._told:
                self._told[name, identity] = told
        answer(told)


def _read(body: bytes, order: Order[_W]) -> tuple[Id, _W]:
    """The command's ``id`` and wishes. ``RefusedError`` says what is wrong with them. No body is an empty object."""
    if len(body) > MAX_BODY:
        raise RefusedError(f"{len(body)} bytes; a command has {MAX_BODY} at most")
    try:
        wishes = msgspec.json.decode(body or b"{}", type=order.wishes)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # ValidationError is a DecodeError
        fields = ", ".join(order.wishes.__struct_fields__)
        raise RefusedError(f"{str(error)[:300]}; send a JSON object with any of: {fields}") from None
    return wishes.id, wishes
