"""What is said of the bundle that judges: in the log, and to the command line beside the agent."""

from __future__ import annotations

import os

from agent.logs import log
from agent.model.devices import CPU, tidy
from agent.model.judging import Judging
from agent.model.loading import Loaded, Trust

SECOND_CHOICE = "bundle_variant_refused"
_log = log("bundles")


def announce(loaded: Loaded) -> None:
    """It has passed its test, and may judge."""
    facts = loaded.model.facts
    for refusal in loaded.refusals:
        _log.warning("%s: %s; using %s on %s", SECOND_CHOICE, refusal, facts.variant, loaded.model.device)
    tested = f"golden images within {loaded.self_test_deviation:.1g}, {loaded.latency_ms:.1f} ms a frame"
    signed = f", signed by {loaded.signed_by}" if loaded.signed_by else ""
    where = f"{facts.variant}" if loaded.model.device == CPU else f"{facts.variant} on {loaded.model.device}"
    _log.info("bundle %s (%s): self-test passed, %s%s", loaded.name, where, tested, signed)
    if loaded.notice:
        _log.warning("bundle_notice: %s: %s", facts.name, loaded.notice)


def judging(loaded: Loaded, since: str, now: str, wanted: str | None, problem: str | None) -> Judging:
    """It judges since then; ``wanted`` does not, because of ``problem``."""
    facts = loaded.model.facts
    return Judging(
        pid=os.getpid(), path=str(loaded.path), name=facts.name, version=facts.version,
        variant=facts.variant, device=loaded.model.device, sha256=facts.sha256,
        since=since, said_at=now, wanted=wanted, problem=problem,
    )  # fmt: skip


def tidy_engines(trust: Trust) -> None:
    """Built engines that nobody has used for long; what cannot be removed stays."""
    if trust.engines is not None:
        try:
            tidy(trust.engines)
        except OSError as error:
            _log.warning("engines_not_tidied: %s: %s; old engines stay", error.filename, error.strerror)
