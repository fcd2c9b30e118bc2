"""``weldwatch bundle inspect`` and ``verify``: what a bundle is, and whether it works here."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.cli.bundle.answer import answer

if TYPE_CHECKING:
    from agent.bundle.archive import Archive


def inspect(options: argparse.Namespace) -> int:
    """Show it; nothing of it is run."""
    from agent.bundle.archive import Archive
    from agent.model.store import resolve

    with Archive(resolve(options.bundle)) as archive:
        signed = _signed(archive, options.trusted_keys)
        if options.json:
            print(json.dumps({**json.loads(archive.manifest_bytes), "signed": signed}))
            return 0
        _show(archive, signed)
    return 0


def _signed(archive: Archive, keys: Path | None) -> str:
    from agent.bundle.signature import signer

    if archive.signature is None:
        return "no"
    if keys is None:
        return "yes, by whom is not known without --trusted-keys"
    return f"by {name}" if (name := signer(archive, keys)) else f"by nobody in {keys}"


def _show(archive: Archive, signed: str) -> None:
    """A page for a person. Everything in a manifest is somebody's words: shown as text, never as markup."""
    from rich.text import Text

    from agent.cli import tables
    from agent.logs import printable

    manifest, facts = archive.manifest, archive.manifest.training
    spec = manifest.preprocessing
    rows: list[tuple[str, str]] = [
        ("bundle", f"{manifest.name} {manifest.version}, made {manifest.created_at}"),
        ("notice", manifest.notice or "–"),
        ("signed", signed),
        ("labels", ", ".join(manifest.labels)),
        ("preprocessing", f"{spec.colour}, crop {spec.crop or 'none'}, {spec.size[0]}×{spec.size[1]}, {spec.filter}"),
        ("trained on", f"{'SYNTHETIC frames' if facts.synthetic else 'recordings'}, split by {facts.split}"),
        ("started from", f"{facts.weights.name} ({facts.weights.origin}; {facts.weights.licence})"),
    ]
    measured = facts.metrics.get("variants")
    for name, variant in manifest.variants.items():
        rule = variant.decision or manifest.decision
        band = f", NotDecidable from {rule.review[0]:.3g} to {rule.review[1]:.3g}" if rule.review else ""
        rows.append((f"variant {name}", f"NotOK from a defect probability of {rule.threshold:.3g}{band}"))
        numbers = measured.get(name, {}).get("test") if isinstance(measured, dict) else None
        rows += _numbers(numbers) if isinstance(numbers, dict) else []
    tables.show((), [(Text(printable(key), "bold"), value) for key, value in rows])


def _numbers(test: dict[str, Any]) -> list[tuple[str, str]]:
    """What was measured on test recordings, each number with its interval over recordings."""
    shown = [
        (f"  {key}", _with_interval(test[key])) for key in ("auc", "escape_rate", "overkill_rate", "ece") if key in test
    ]
    kinds = test.get("per_class")
    if isinstance(kinds, dict):
        shown += [
            (f"  auc of {kind}", _with_interval(numbers["auc"]))
            for kind, numbers in kinds.items()
            if isinstance(numbers, dict) and "auc" in numbers
        ]
    return [*shown, ("  measured on", f"{test.get('frames', '?')} frames of {test.get('recordings', '?')} recordings")]


def _with_interval(number: Any) -> str:
    """``{"value", "low", "high"}`` or a plain number; a bundle made elsewhere may say anything."""
    if not isinstance(number, dict):
        return f"{number:.3f}" if isinstance(number, float) else str(number)
    value, low, high = (number.get(key) for key in ("value", "low", "high"))
    if not isinstance(value, float | int):
        return "–"
    between = "  [too few recordings for an interval]" if {"low", "high"} <= number.keys() else ""
    if isinstance(low, float | int) and isinstance(high, float | int) and low != high:  # earlier bundles have points
        between = f"  [{low:.3f} … {high:.3f}]"
    return f"{value:.3f}{between}"


def verify(options: argparse.Namespace) -> int:
    """Load and test it, as the agent would."""
    from agent.model.loading import Trust, load
    from agent.model.store import resolve

    loaded = load(resolve(options.bundle), Trust(options.trusted_keys))
    facts = loaded.model.facts
    values = {
        "ok": True,
        "name": facts.name,
        "version": facts.version,
        "variant": facts.variant,
        "device": loaded.model.device,
        "deviation": loaded.self_test_deviation,
        "latency_ms": loaded.latency_ms,
        "signed_by": loaded.signed_by,
        "refusals": list(loaded.refusals),
    }
    tested = f"golden images within {loaded.self_test_deviation:.1g}, {loaded.latency_ms:.1f} ms a frame"
    return answer(options, values, f"{facts.name} {facts.version} ({facts.variant}): whole, self-test passed, {tested}")
