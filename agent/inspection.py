"""The story of one image: from a frame to what the station says of it.

Invariant: every frame yields exactly one result, and only a frame that the model has judged can be OK.
"""

from __future__ import annotations

from agent.bundle.postprocess import decide
from agent.clock import Clock, iso_utc
from agent.frame import Frame
from agent.ports import Judgement, Model
from agent.result import Evaluation, ImageFacts, Reason, Result, Station, Timing, new_result_id


def inspect(frame: Frame, model: Model, station: Station, clock: Clock) -> Result:
    """Judge one frame. Never raises for what a frame contains: what cannot be inspected is NotDecidable."""
    started = clock.monotonic()
    label: str | None = None
    judgement: Judgement | None = None
    evaluation: Evaluation = "NotDecidable"
    if frame.picture is None:
        assert frame.problem is not None
        reasons = [Reason(frame.problem.code, detail=frame.problem.detail)]
    else:
        judgement = model.judge(frame.picture)
        label, evaluation, reasons = decide(judgement.probability, model.decision)
    if frame.identity_unknown:
        reasons = [*reasons, Reason("identity_unknown")]
    created = clock.now()
    spent = frame.decode_ms + (clock.monotonic() - started) * 1e3
    return Result(
        result_id=new_result_id(int(created.timestamp() * 1e3)),
        class_=label,
        probability=judgement.probability if judgement and label is not None else None,
        labels=list(model.decision.labels),
        evaluation=evaluation,
        reasons=reasons,
        station=station,
        part_id=frame.identity.part_id,
        job_id=frame.identity.job_id,
        weld_id=frame.identity.weld_id,
        frame=frame.identity.frame,
        image=ImageFacts(
            name=frame.name,
            sha256=frame.sha256,
            bytes=frame.bytes,
            width=frame.picture.width if frame.picture else None,
            height=frame.picture.height if frame.picture else None,
            source=frame.source,
        ),
        captured_at=iso_utc(frame.captured_at),
        captured_from=frame.captured_from,
        created_at=iso_utc(created),
        model=model.facts,
        timing_ms=Timing(
            decode=round(frame.decode_ms, 3),
            preprocess=round(judgement.preprocess_ms, 3) if judgement else 0.0,
            inference=round(judgement.inference_ms, 3) if judgement else 0.0,
            total=round(spent, 3),
        ),
        simulated=frame.simulated,
    )
