"""``weldwatch bundle compare``: is the candidate better than what judges, and what does it cost?"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

_SHOWN = 20


def compare(options: argparse.Namespace) -> int:
    """Read the shadow's lines and the labels; print what they say."""
    from agent.app.bundles.comparison import compare as told_by
    from agent.app.bundles.labels import Labels
    from agent.app.bundles.shadow import FOLDER
    from agent.errors import UsageError

    if options.since and not re.fullmatch(r"\d{4}-\d\d-\d\d", options.since):
        raise UsageError(f"--since: found {options.since!r}; give a day as YYYY-MM-DD")
    labels = Labels(options.labels) if options.labels else None
    told = told_by(_results(options) / FOLDER, labels, since=options.since or "", candidate=options.candidate)
    if options.json:
        print(json.dumps(told))
    else:
        _show(told)
    return 0


def _results(options: argparse.Namespace) -> Path:
    if options.results is not None:
        return Path(options.results)
    from agent import config

    return Path(config.load(config.find(options.config)).results.directory)


def _show(told: dict[str, Any]) -> None:
    from agent.cli import tables

    console = tables.console()
    active, candidate = (f"{told[who]['name']} {told[who]['version']}" for who in ("active", "candidate"))
    console.print(
        f"active {active} ({told['active']['variant']}), candidate {candidate} ({told['candidate']['variant']})"
    )
    console.print(
        f"{told['frames']} frames from {told['from']} to {told['to']}, {told['skipped']} skipped by the candidate"
    )
    words = list(told["table"])
    rows = [(one, *(str(told["table"][one][other]) for other in words)) for one in words]
    console.print("frames by verdict")
    tables.show(("active ↓  candidate →", *words), rows, right=range(1, len(words) + 1))
    console.print(f"agreement  {_rate(told['agreement'], 'frames')}")
    for who, times in told["ms"].items():
        console.print(f"{who} takes {times['p50']} ms a frame (p99 {times['p99']}), preprocessing and inference")
    if told["labelled"] is None:
        console.print("escapes and overkill need reviewed labels: --labels FILE (result_id,label with OK or NotOK)")
    else:
        _show_reviewed(console, told["labelled"])
    _show_disagreements(console, told["disagreements"])
    for pair, frames in told["other_pairs"].items():
        console.print(f"not counted: {frames} frames of {pair}; see --candidate")
    alone = told["frames_of_no_part"]
    kind = f"; {alone} of {told['frames']} frames have no id and count as a part each: too kind" if alone else ""
    console.print(f"In brackets: 95% intervals over parts{kind}.")


def _show_reviewed(console: Any, labelled: dict[str, Any]) -> None:
    console.print(f"reviewed: {labelled['good']} good, {labelled['defects']} defects")
    for figure, among in (("escapes", "defects"), ("overkill", "good"), ("undecided", "reviewed")):
        for who, rate in labelled[figure].items():
            console.print(f"  {figure:9} {who:9}  {_rate(rate, among)}")
    if labelled["not_met"]:
        console.print(f"  {labelled['not_met']} labels fit no frame of this comparison")
    if labelled["ambiguous"]:
        console.print(f"  {labelled['ambiguous']} names fit several frames each; label by result_id to tell them apart")


def _rate(rate: dict[str, Any], among: str) -> str:
    if rate["value"] is None:
        return f"no {among}, so nothing can be said"
    between = f"[{rate['low']:.1%} … {rate['high']:.1%}]"
    if rate["count"] == 0:
        between = f"up to {rate['high']:.1%} at 95%"
    return f"{rate['count']} in {rate['of']} {among}: {rate['value']:.1%}  {between}"


def _show_disagreements(console: Any, told: list[dict[str, Any]]) -> None:
    from agent.logs import printable

    if not told:
        return
    console.print("they disagree on:")
    for one in told[:_SHOWN]:
        label = f", reviewed {one['label']}" if one["label"] else ""
        name = printable(one["image"])
        console.print(f"  {one['result_id']}  {name}  active {one['active']}, candidate {one['candidate']}{label}")
    if len(told) > _SHOWN:
        console.print(f"  and {len(told) - _SHOWN} more; --json tells them")
