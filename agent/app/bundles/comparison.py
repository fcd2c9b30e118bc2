"""What the shadow's lines say: how far candidate and active bundle agree, and what each is worth on reviewed frames.

Invariants
- Escapes and overkill are counted on frames that a person has labelled, and on nothing else; a ``NotDecidable`` is
  neither, and counted apart.
- Frames of one part look alike, so the part is the unit of chance: intervals come from resampling whole parts (cluster
  bootstrap, percentiles; Davison and Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8), and are
  never narrower than Wilson's of that share of so many parts. Without ids each frame counts as a part of its own, which
  is too kind, and said.
- The same lines and labels give the same numbers.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from agent.app.bundles.labels import Labels
from agent.app.bundles.shadow import Verdict
from agent.errors import UsageError
from agent.result import Evaluation, ImageFacts, ModelFacts, Timing
from agent.wilson import wilson

CONFIDENCE = 0.95
_DRAWS = 1000
SHOWN = 1000  #: disagreements told one by one, at most


class Line(msgspec.Struct, frozen=True):
    """What is needed of a line of the shadow."""

    result_id: str
    part_id: str | None
    weld_id: str | None
    job_id: str | None
    image: ImageFacts
    created_at: str
    evaluation: Evaluation
    model: ModelFacts
    timing_ms: Timing
    active: Verdict
    skipped: int

    @property
    def part(self) -> str | None:
        """What the frame belongs to, as far as anybody said."""
        return self.part_id or self.weld_id or self.job_id


@dataclass(frozen=True)
class Interval:
    """A share with what it may as well be; None where there is nothing to count."""

    count: int
    of: int
    value: float | None
    low: float | None
    high: float | None


@dataclass
class _Rate:
    """Hits among frames, by part; frames of no known part are each a part of their own."""

    parts: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    alone: list[int] = field(default_factory=lambda: [0, 0])

    def add(self, part: str | None, hit: bool) -> None:
        one = self.alone if part is None else self.parts[part]
        one[0] += hit
        one[1] += 1

    def interval(self) -> Interval:
        hits, frames = (sum(one[at] for one in (*self.parts.values(), self.alone)) for at in (0, 1))
        if not frames:
            return Interval(0, 0, None, None, None)
        kinds = Counter((hits, frames) for hits, frames in self.parts.values())
        kinds[1, 1] += self.alone[0]
        kinds[0, 1] += self.alone[1] - self.alone[0]
        low, high = _bootstrap(kinds) if self.parts else wilson(hits / frames, frames, CONFIDENCE)
        share = hits / frames
        return Interval(hits, frames, share, min(low, share), max(high, share))


def _bootstrap(kinds: Counter[tuple[int, int]]) -> tuple[float, float]:
    """Percentiles over draws of whole parts; ``kinds`` says how many parts have so many hits among so many frames."""
    parts = kinds.total()
    counts = np.array(list(kinds), dtype=np.float64)
    shares = np.array(list(kinds.values()), dtype=np.float64) / parts
    drawn = np.random.default_rng(parts).multinomial(parts, shares, size=_DRAWS) @ counts
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    hits, frames = shares @ counts
    least, most = wilson(float(hits / frames), parts, CONFIDENCE)
    return float(min(low, least)), float(max(high, most))


def lines(folder: Path, since: str = "") -> Iterator[Line]:
    """Every line from the day ``since`` on, in order; a torn one is passed over. ``UsageError`` where there is none."""
    there = sorted(folder.glob("????-??-??.jsonl"))
    days = [day for day in there if day.stem >= since]
    if there and not days:
        raise UsageError(f"{folder}: nothing since {since}; the last day there is {there[-1].stem}")
    if not days:
        raise UsageError(f"{folder}: nothing judged beside yet; name a candidate with: weldwatch bundle shadow NAME")
    decoder = msgspec.json.Decoder(Line)
    for day in days:
        with day.open("rb") as file:
            for text in file:
                try:
                    yield decoder.decode(text)
                except (msgspec.DecodeError, UnicodeDecodeError):
                    continue


def name_of(model: ModelFacts) -> str:
    """``<name>-<version>``, as in the store."""
    return f"{model.name}-{model.version}"


class Comparison:
    """``add`` every line of one pair of bundles, then read the figures from ``told``."""

    def __init__(self, labels: Labels | None = None) -> None:
        self._labels = labels
        self._table: Counter[tuple[str, str]] = Counter()
        self._agreed = _Rate()
        self._rates: dict[str, dict[str, _Rate]] = {
            figure: {"active": _Rate(), "candidate": _Rate()} for figure in ("escapes", "overkill", "undecided")
        }
        self._ms = {"active": array("f"), "candidate": array("f")}
        self._first: Line | None = None
        self._last: Line | None = None
        self._skipped, self._labelled = 0, Counter[str]()
        self._disagreements: list[dict[str, Any]] = []

    def add(self, line: Line) -> None:
        """Count one frame."""
        self._first, self._last = self._first or line, line
        said = {"active": line.active.evaluation, "candidate": line.evaluation}
        label = self._labels.of(line.result_id, line.image.sha256, line.image.name) if self._labels else None
        part = line.part
        self._skipped += line.skipped
        self._table[said["active"], said["candidate"]] += 1
        self._agreed.add(part, said["active"] == said["candidate"])
        for who, timing in (("active", line.active.timing_ms), ("candidate", line.timing_ms)):
            self._ms[who].append(timing.preprocess + timing.inference)
        if said["active"] != said["candidate"] and len(self._disagreements) < SHOWN:
            self._disagreements.append(
                {"result_id": line.result_id, "image": line.image.name, **said, "label": label, "part": line.part}
            )
        if label is None:
            return
        self._labelled[label] += 1
        wrong, figure = ("OK", "escapes") if label == "NotOK" else ("NotOK", "overkill")
        for who, evaluation in said.items():
            self._rates[figure][who].add(part, evaluation == wrong)
            self._rates["undecided"][who].add(part, evaluation == "NotDecidable")

    def told(self) -> dict[str, Any]:
        """All figures, as plain data. ``UsageError`` where there is no line."""
        if self._first is None or self._last is None:
            raise UsageError("no line of the shadow fits; see --candidate and --since")
        words = ("OK", "NotOK", "NotDecidable")
        return {
            "active": msgspec.to_builtins(self._last.active.model),
            "candidate": msgspec.to_builtins(self._last.model),
            "from": self._first.created_at,
            "to": self._last.created_at,
            "frames": sum(self._table.values()),
            "skipped": self._skipped,
            "parts": len(self._agreed.parts),
            "frames_of_no_part": self._agreed.alone[1],
            "confidence": CONFIDENCE,
            "agreement": _plain(self._agreed),
            "table": {one: {other: self._table[one, other] for other in words} for one in words},
            "ms": {who: _times(times) for who, times in self._ms.items()},
            "labelled": None if self._labels is None else self._reviewed(self._labels),
            "disagreements": self._disagreements,
        }

    def _reviewed(self, labels: Labels) -> dict[str, Any]:
        figures = {figure: {who: _plain(rate) for who, rate in both.items()} for figure, both in self._rates.items()}
        good, bad = self._labelled["OK"], self._labelled["NotOK"]
        return {"good": good, "defects": bad, "not_met": labels.unmet(), "ambiguous": labels.ambiguous(), **figures}


def _plain(rate: _Rate) -> dict[str, Any]:
    return dict(msgspec.to_builtins(rate.interval()))


def _times(times: Sequence[float]) -> dict[str, float]:
    p50, p99 = np.quantile(np.asarray(times), [0.5, 0.99])
    return {"p50": round(float(p50), 2), "p99": round(float(p99), 2)}


def compare(
    folder: Path, labels: Labels | None = None, *, since: str = "", candidate: str | None = None
) -> dict[str, Any]:
    """Read the shadow's folder and tell. Of several pairs of bundles the one that judged last, or with ``candidate``
    the last with that; of the others only the number of frames is told.
    """
    pairs: dict[tuple[str, str, str, str], Comparison] = {}
    frames: Counter[tuple[str, str, str, str]] = Counter()
    last = None
    for line in lines(folder, since):
        active, beside = line.active.model, line.model
        pair = (name_of(active), active.variant, name_of(beside), beside.variant)
        frames[pair] += 1
        if candidate in (None, pair[2]):
            last = pair
            pairs.setdefault(pair, Comparison(labels)).add(line)
    if last is None:
        there = ", ".join(sorted({pair[2] for pair in frames})) or "none"
        raise UsageError(f"{folder}: no frames of candidate {candidate}; there are {there}")
    told = pairs[last].told()
    others: Mapping[str, int] = {f"{p[0]} ({p[1]}), {p[2]} ({p[3]})": n for p, n in frames.items() if p != last}
    return {**told, "other_pairs": others}
