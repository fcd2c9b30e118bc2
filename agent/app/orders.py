"""The commands that this station knows: what each one takes, and which part of the station carries it out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Annotated, Any

from msgspec import Meta

from agent.app.commands import Order, Outcome, RefusedError, Wishes
from agent.app.jobs import Jobs
from agent.frame import Identity
from agent.ports import Source, Triggered


class Trigger(Wishes, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Take and inspect an image now. ``source`` may be left out where only one camera waits for commands."""

    source: str | None = None


Id = Annotated[str, Meta(min_length=1, max_length=200)] | int | None  #: as in a sidecar


class Job(Wishes, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What images belong to from now on. It replaces the job before whole: an id that is left out is none."""

    part_id: Id = None
    job_id: Id = None
    weld_id: Id = None
    source: str | None = None


def orders(sources: Mapping[str, Source], jobs: Jobs) -> dict[str, Order[Any]]:
    """Every command by its name."""
    return {
        "trigger": Order(Trigger, lambda wishes: _trigger(sources, wishes)),
        "job": Order(Job, lambda wishes: _job(sources, jobs, wishes)),
    }


def _job(sources: Mapping[str, Source], jobs: Jobs, wishes: Job) -> Outcome:
    part_id, job_id, weld_id = (
        None if one is None else str(one) for one in (wishes.part_id, wishes.job_id, wishes.weld_id)
    )
    jobs.set(wishes.source, Identity(part_id, job_id, weld_id))
    return {name: jobs.current(name) for name in sources if wishes.source in (None, name)}


def _trigger(sources: Mapping[str, Source], wishes: Trigger) -> Future[Outcome]:
    triggered = {name: source for name, source in sources.items() if isinstance(source, Triggered)}
    if wishes.source is None and len(triggered) != 1:
        raise RefusedError(f"name a source: {', '.join(triggered) or 'this station has no camera'}")
    name = wishes.source if wishes.source is not None else next(iter(triggered))
    if name not in triggered:
        raise RefusedError(f"{name!r} is no camera of this station; cameras are {', '.join(triggered) or 'none'}")
    return _then(triggered[name].trigger(), lambda result_id: {"source": name, "result_id": result_id})


def _then(first: Future[Any], what: Callable[[Any], Outcome]) -> Future[Outcome]:
    """A future that ends with ``what`` of the first one's value, or as that one failed."""
    then: Future[Outcome] = Future()

    def done(_: Future[Any]) -> None:
        error = first.exception()
        if error is not None:
            then.set_exception(error)
        else:
            then.set_result(what(first.result()))

    first.add_done_callback(done)
    return then
