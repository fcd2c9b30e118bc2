"""Commands: checked, carried out one after the other, answered once, whoever brings them."""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.app.commands import _REMEMBERED, _WAITING, MAX_BODY, Commands, Order, Outcome, RefusedError, Wishes
from agent.clock import ManualClock
from agent.errors import RetryError
from agent.health import Health

NOON = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)


class Press(Wishes, frozen=True, kw_only=True, forbid_unknown_fields=True):
    button: str = "left"


class Told:
    """Sends commands and waits for their answers."""

    def __init__(self, work: Callable[[Any], Outcome | Future[Outcome]], *allowed: str) -> None:
        self.health = Health()
        orders = {"press": Order(Press, work), "hidden": Order(Press, work)}
        self.commands = Commands(orders, allowed or ("press",), self.health, ManualClock(NOON))
        self.commands.start()

    def send(self, body: Any = b"", name: str = "press") -> queue.Queue[Any]:
        answers: queue.Queue[Any] = queue.Queue()
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.commands.obey(name, raw, lambda told: answers.put(json.loads(told)))
        return answers

    def ask(self, body: Any = b"", name: str = "press") -> dict[str, Any]:
        answer: dict[str, Any] = self.send(body, name).get(timeout=10)
        return answer


class Presses:
    """Counts what was carried out; can be held."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, wishes: Press) -> Outcome:
        self.gate.wait(10)
        self.done.append(wishes.button)
        return {"presses": len(self.done)}


@pytest.fixture
def presses() -> Presses:
    return Presses()


@pytest.fixture
def told(presses: Presses) -> Iterator[Told]:
    told = Told(presses)
    yield told
    presses.gate.set()
    told.commands.stop()


def test_an_answer_says_what_was_done(told: Told) -> None:
    assert told.ask({"id": "17", "button": "right"}) == {
        "command": "press", "id": "17", "at": "2026-11-22T12:00:00.000Z", "ok": True, "answer": {"presses": 1},
    }  # fmt: skip
    assert told.ask() == {
        "command": "press", "id": None, "at": "2026-11-22T12:00:00.000Z", "ok": True, "answer": {"presses": 2},
    }  # fmt: skip
    assert told.health.counters()["commands_obeyed"] == 2


@pytest.mark.parametrize("identity", ["17", 17, "ö" * 200])
def test_the_same_id_is_carried_out_once_and_answered_the_same(told: Told, presses: Presses, identity: Any) -> None:
    first = told.ask({"id": identity})
    assert told.ask({"id": identity}) == first
    assert told.ask({"id": identity, "button": "other"}) == first
    assert len(presses.done) == 1
    assert told.ask({"id": "another"})["answer"] == {"presses": 2}


def test_the_same_id_while_it_is_carried_out_is_not_carried_out_again(told: Told, presses: Presses) -> None:
    presses.gate.clear()
    first, second = told.send({"id": "17"}), told.send({"id": "17"})
    presses.gate.set()
    answer = first.get(timeout=10)
    assert told.ask({"id": "17"}) == answer
    assert second.empty(), "the one that was first is answered"
    assert len(presses.done) == 1


def test_an_id_is_of_one_command(presses: Presses) -> None:
    told = Told(presses, "press", "hidden")
    told.ask({"id": "17"})
    assert told.ask({"id": "17"}, "hidden")["command"] == "hidden"
    assert len(presses.done) == 2
    told.commands.stop()


def test_only_so_many_ids_are_remembered(told: Told, presses: Presses) -> None:
    for number in range(_REMEMBERED + 1):
        told.ask({"id": str(number)})
    told.ask({"id": str(_REMEMBERED)})
    assert len(presses.done) == _REMEMBERED + 1
    told.ask({"id": "0"})
    assert len(presses.done) == _REMEMBERED + 2, "the oldest is forgotten"


def test_a_full_queue_is_answered_and_the_id_may_come_again(told: Told, presses: Presses) -> None:
    presses.gate.clear()
    waiting = [told.send({"id": n}) for n in range(_WAITING + 2)]  # one may be held by the worker
    *_, refused = (answers.get() for answers in waiting if not answers.empty())
    assert refused["error"] == f"{_WAITING} commands are waiting already; send it again later"
    presses.gate.set()
    assert waiting[0].get(timeout=10)["ok"]
    assert told.ask({"id": refused["id"]})["ok"], "it was not carried out, so its id is free"


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("press", b"nonsense", "JSON is malformed"),
        ("press", b"\xff\xfe", "send a JSON object with any of: id, button"),
        ("press", b"[1]", "Expected `object`, got `array`"),
        ("press", b"17", "Expected `object`, got `int`"),
        ("press", b'{"botton": "left"}', "unknown field `botton`"),
        ("press", b'{"button": 1}', "Expected `str`, got `int` - at `$.button`"),
        ("press", b'{"id": {}}', "$.id"),
        ("press", json.dumps({"id": "x" * 201}).encode(), "length <= 200"),
        ("press", b"[" * 60_000, "send a JSON object"),
        ("press", b" " * (MAX_BODY + 1), "a command has 65536 at most"),
        ("hidden", b"", "not allowed here; add hidden to mqtt.commands"),
        ("no-such", b"", "no such command; this station knows hidden, press"),
    ],
)
def test_what_is_wrong_is_answered_logged_and_changes_nothing(
    told: Told, presses: Presses, caplog: pytest.LogCaptureFixture, name: str, body: bytes, said: str
) -> None:
    with caplog.at_level(logging.WARNING, "weldwatch"):
        answer = told.ask(body, name)
    assert (answer["command"], answer["ok"]) == (name, False)
    assert said in answer["error"]
    assert f"command_refused: {name}: " in caplog.text
    assert presses.done == []
    assert told.health.counters()["commands_refused"] == 1


def test_a_refusal_names_the_command_it_refuses_and_takes_no_answer_away(told: Told) -> None:
    done = told.ask({"id": "17"})
    assert told.ask({"id": "18", "button": 1})["id"] == "18"
    refused = told.ask({"id": "17", "button": 1})
    assert (refused["id"], refused["ok"]) == ("17", False)
    assert told.ask({"id": "17"}) == done


@given(st.binary(max_size=200), st.text(max_size=20))
def test_no_body_and_no_name_raises(body: bytes, name: str) -> None:
    commands = Commands({"press": Order(Press, lambda _: {})}, ("press",), Health(), ManualClock(NOON))
    answers: list[bytes] = []
    commands.obey(name, body, answers.append)
    commands.obey("press", body, answers.append)
    commands.refuse(name, body, "because", answers.append)
    assert all(json.loads(answer)["ok"] is False for answer in answers)
    assert json.loads(answers[-1])["error"] == "because"


def test_what_a_field_is_called_does_not_fill_the_answer(told: Told) -> None:
    assert len(told.ask({"x" * 60_000: 1})["error"]) < 500


def test_a_refusal_by_who_brings_it_names_the_id_and_remembers_nothing(told: Told) -> None:
    answers: list[bytes] = []
    told.commands.refuse("press", b'{"id": "17", "whatever": 1}', "retained", answers.append)
    told.commands.refuse("press", b"nonsense", "retained", answers.append)
    assert [(json.loads(one)["id"], json.loads(one)["error"]) for one in answers] == [
        ("17", "retained"),
        (None, "retained"),
    ]
    assert told.ask({"id": "17"})["ok"]


# --- work that fails, and work that takes its time ---


def test_trouble_becomes_the_answer_and_a_fault_of_ours_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def work(wishes: Press) -> Outcome:
        if wishes.button == "left":
            raise RetryError("the agent stops")
        if wishes.button == "right":
            raise RefusedError("name a source")
        raise ZeroDivisionError

    told = Told(work)
    assert told.ask({"button": "left"})["error"] == "the agent stops"
    assert told.ask({"button": "right"})["error"] == "name a source"
    assert told.ask({"button": "other", "id": "17"})["error"] == "a fault of the agent; its log has the cause"
    assert "ZeroDivisionError" in caplog.text
    assert told.ask({"button": "left"})["ok"] is False, "the worker lives"
    told.commands.stop()


def test_what_takes_its_time_does_not_hold_up_the_next() -> None:
    slow: Future[Outcome] = Future()
    told = Told(lambda wishes: slow if wishes.button == "slow" else {"now": True})
    later = told.send({"button": "slow", "id": "1"})
    assert told.ask()["answer"] == {"now": True}
    assert later.empty()
    slow.set_result({"result_id": "r"})
    answer = later.get(timeout=10)
    assert answer["answer"] == {"result_id": "r"}
    assert told.ask({"button": "slow", "id": "1"}) == answer
    told.commands.stop()


def test_a_future_that_fails_is_answered() -> None:
    slow: Future[Outcome] = Future()
    told = Told(lambda _: slow)
    later = told.send()
    slow.set_exception(RetryError("no camera"))
    assert later.get(timeout=10)["error"] == "no camera"
    told.commands.stop()


def test_what_waits_at_a_stop_is_not_answered(told: Told, presses: Presses) -> None:
    presses.gate.clear()
    waiting = [told.send() for _ in range(_WAITING)]
    told.commands.stop()
    presses.gate.set()
    told.commands._thread.join(10)
    assert not told.commands._thread.is_alive()
    assert len(presses.done) == sum(not answers.empty() for answers in waiting) <= 1, "only what was begun"
