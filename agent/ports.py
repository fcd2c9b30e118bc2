"""The ports: what the rooms ask of each other. One or two methods each; the order of calls is part of the port.

source.run(offer, stop) ─▶ offer(frame) ─▶ model.judge(picture) ─▶ ledger.commit ─▶ source.release(keys)
                                                                      │
                                                             sink.deliver(batch), again and again
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from agent.frame import Frame
from agent.image import Picture
from agent.result import ModelFacts


class Offer(Protocol):
    """How a source hands over a frame. Blocks while the queue is full: that is the backpressure."""

    def __call__(self, frame: Frame) -> bool:
        """True when the frame was taken; False when the agent stops and wants no more."""
        ...


class Source(Protocol):
    """Where frames come from. Constructing a source neither opens nor starts anything."""

    name: str

    def run(self, offer: Offer, stop: threading.Event, *, once: bool = False) -> None:
        """Offer every frame once, in this thread, until ``stop`` is set; with ``once`` until all there is was offered.

        A source that cannot reach its images says so on health and keeps trying.
        """
        ...

    def release(self, keys: Sequence[bytes]) -> None:
        """These frames are durable: archive, delete or keep them. Called from another thread, after the commit.

        Never blocks: what takes its time is done in a thread of the source's own. A kill may come between commit and
        release; ``run`` then meets the frame again, sees that the ledger has it, and releases it itself.
        """
        ...

    def close(self, timeout_s: float) -> None:
        """After ``run`` and the last ``release``: finish what is under way, for so long at most."""
        ...

    def state(self) -> dict[str, Any]:
        """For the status topic: at least ``name``, ``type`` and ``state`` ("watching", "missing", "stalled", …)."""
        ...


@runtime_checkable
class Triggered(Protocol):
    """A source that takes an image when it is told to."""

    def trigger(self) -> Future[str]:
        """Inspect what the camera sees from now on. The result's id, once that result is durable.

        Never blocks. Always ends: with the id of a result, NotDecidable where the camera gave no frame in time, or with
        ``RetryError`` (as its exception) where there is no result: the agent stops, or nothing is inspected at present.
        """
        ...


class SeenKeys(Protocol):
    """The ledger as a source sees it."""

    def seen(self, keys: Sequence[bytes]) -> set[bytes]:
        """Those of ``keys`` that have a result."""
        ...

    def forget_seen(self, source: str, present: Callable[[bytes], bool]) -> int:
        """Drop the keys of ``source`` for which ``present`` is false (files that are gone). How many went."""
        ...


@dataclass(frozen=True)
class Judgement:
    """What a model says of one picture."""

    probability: list[float]  #: one a label, summing to 1, as the graph's first output gives them
    preprocess_ms: float
    inference_ms: float


@dataclass(frozen=True)
class Decision:
    """When a probability is a defect. See ``agent.bundle.postprocess.decide``."""

    labels: tuple[str, ...]
    good: tuple[int, ...]  #: indices of the labels that are no defect
    threshold: float  #: at or above: NotOK
    review: tuple[float, float] | None = None  #: low ≤ p < high: NotDecidable


class Model(Protocol):
    """A loaded bundle. ``judge`` is called from one thread."""

    facts: ModelFacts
    decision: Decision

    def judge(self, picture: Picture) -> Judgement:
        """Preprocess and run the model on one picture."""
        ...


@dataclass(frozen=True)
class Stored:
    """A result in the ledger: what the sinks deliver, byte for byte."""

    sequence: int
    result_id: str
    created_at: str  #: as in the result
    image_name: str  #: as in the result
    body: bytes  #: the result as UTF-8 JSON, without a line end


@dataclass(frozen=True)
class Pace:
    """How a sink wants to be fed."""

    batch: int = 100  #: results a call at most
    batch_bytes: int = 1 << 20  #: and about as many bytes
    interval_s: float = 0.0  #: at least this long from call to call while results trickle in, so that syncs are shared
    backoff_max_s: float = 30.0  #: the longest pause after ``RetryError``
    problem_after_s: float | None = 5.0  #: raise ``<name>_undelivered`` after so long; None: the sink speaks for itself


class Sink(Protocol):
    """Where results go. One thread calls ``deliver``, always with what follows the last accepted one."""

    name: str
    pace: Pace

    def open(self, wake: Callable[[], None]) -> None:
        """Called once before the first ``deliver``. Waits for nothing: what must connect does so in its own thread.

        ``wake`` may be called from any thread, whenever it is worth delivering at once after a ``RetryError``.
        """
        ...

    def deliver(self, batch: Sequence[Stored]) -> int:
        """Deliver from the front, in order; return how many are durable at the far end (0 … len(batch)).

        Trouble in mid-batch ends the call early with what was accepted so far. Trouble with the *first* one is raised:
        ``RetryError`` (keep it and come back) or ``RejectError`` (this one never; dead letter).
        """
        ...

    def close(self) -> None:
        """Let go of connections; ends a ``deliver`` that waits. Calling it twice, or without ``open``, does no harm."""
        ...


@runtime_checkable
class Unsure(Protocol):
    """A sink whose far end may lose what it had accepted: a broker dies with it, or who listens does."""

    def doubt(self) -> int | None:
        """The first sequence that may be lost, or None where nothing new is in doubt. Each doubt is told once.

        Called before each ``deliver``, from the same thread, and after a ``wake``. What follows comes once more,
        under its ids: the cursor is taken back, durably, by ``MOST_AGAIN`` results at most.
        """
        ...


MOST_AGAIN = 2000  #: results that one doubt brings back


@runtime_checkable
class Replaying(Protocol):
    """A sink that can send again what it has delivered once."""

    def deliver_again(self, batch: Sequence[Stored]) -> int:
        """As ``Sink.deliver``, from the same thread, but for results that it has delivered before, in any order."""
        ...


class Commands(Protocol):
    """What the station can be told from outside, whatever brings it."""

    def obey(self, name: str, body: bytes, answer: Callable[[bytes], None]) -> None:
        """Carry out ``name`` with the JSON object ``body``. Never blocks, never raises.

        ``answer`` is called at most once, from any thread, with UTF-8 JSON; not at all when the agent stops first.
        """
        ...

    def refuse(self, name: str, body: bytes, why: str, answer: Callable[[bytes], None]) -> None:
        """Answer that this one is not carried out, for a reason that only who brought it knows."""
        ...
