"""``weldwatch bundle``: the life of a bundle on the station."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent.bundle.archive import Archive
    from agent.config import AgentConfig

_EPILOG = """\
a new model on a station:
  weldwatch bundle inspect aluminium-1.1.0.pipeline     what it is, and its numbers
  weldwatch bundle install aluminium-1.1.0.pipeline     verified, side by side with the others
  weldwatch bundle activate aluminium-1.1.0             self-tested, then taken up within 2 s
  weldwatch bundle rollback                             back to what judged before
"""


def add_to(commands: Any) -> None:
    """Describe the command."""
    top: argparse.ArgumentParser = commands.add_parser(
        "bundle",
        help="inspect, sign, install, activate, roll back",
        description="The life of a bundle on the station. A bundle never judges before it was verified whole and its "
        "golden images gave on this machine what they gave in training.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = top.add_subparsers(title="verbs", metavar="VERB", required=True)

    def verb(name: str, help_: str, work: Any, *, file: str | None = None, station: bool = False) -> Any:
        command = verbs.add_parser(name, help=help_, description=f"{help_[0].upper()}{help_[1:]}.")
        if file:
            command.add_argument("bundle", metavar=file)
        if station:
            command.add_argument("--config", metavar="FILE", help="the station's configuration; default: as for run")
        command.add_argument("--json", action="store_true", help="answer as one JSON object")
        command.set_defaults(work=work)
        return command

    inspect = verb("inspect", "show what a bundle is: labels, numbers, threshold, who signed", _inspect, file="BUNDLE")
    verify = verb("verify", "verify a bundle whole and run its self-test here", _verify, file="BUNDLE")
    for command in (inspect, verify):
        command.add_argument("--trusted-keys", metavar="DIR", type=Path, help="folder of public keys (*.pub)")
    verb("install", "copy a bundle into the station's store", _install, file="FILE", station=True)
    verb("list", "show installed bundles and which one judges", _list, station=True)
    verb("activate", "let an installed bundle judge from now on", _activate, file="NAME-VERSION", station=True)
    verb("rollback", "go back to the bundle that judged before", _rollback, station=True)
    keygen = verb("keygen", "make a key pair for signing bundles", _keygen)
    keygen.add_argument("key", metavar="KEY", type=Path, help="file for the private key; KEY.pub gets the public one")
    sign = verb("sign", "sign a bundle with a private key", _sign, file="FILE")
    sign.add_argument("--key", required=True, type=Path, help="private key, from keygen")
    sign.add_argument("--out", type=Path, help="signed copy (default: the file itself)")


def _station(options: argparse.Namespace) -> AgentConfig:
    from agent import config

    return config.load(config.find(options.config))


def _answer(options: argparse.Namespace, values: dict[str, Any], text: str) -> int:
    print(json.dumps(values) if options.json else text)
    return 0


def _inspect(options: argparse.Namespace) -> int:
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
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

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
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in rows:
        table.add_row(Text(printable(key), "bold"), Text(printable(value)))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


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
    between = f"  [{low:.3f} … {high:.3f}]" if isinstance(low, float | int) and isinstance(high, float | int) else ""
    return f"{value:.3f}{between}"


def _verify(options: argparse.Namespace) -> int:
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
    return _answer(
        options, values, f"{facts.name} {facts.version} ({facts.variant}): whole, self-test passed, {tested}"
    )


def _install(options: argparse.Namespace) -> int:
    from agent.model.loading import Trust
    from agent.model.store import Store

    config = _station(options)
    name = Store(Path(config.state)).install(Path(options.bundle), Trust.of(config).keys, config.bundle.initial)
    return _answer(options, {"installed": name}, f"{name} is installed; next: weldwatch bundle activate {name}")


def _list(options: argparse.Namespace) -> int:
    from agent.model.store import Store

    config = _station(options)
    store = Store(Path(config.state))
    pointer = store.pointer()
    active = pointer.active if pointer else None
    lines = [f"{'* ' if name == active else '  '}{name}" for name in store.names()]
    if active is None:
        lines.append(f"* {config.bundle.initial} (bundle.initial; nothing was activated yet)")
    elif active not in store.names():
        lines.append(f"* {active}")
    values = {"active": active, "initial": config.bundle.initial, "installed": store.names(),
              "history": pointer.history if pointer else []}  # fmt: skip
    return _answer(options, values, "\n".join(lines))


def _activate(options: argparse.Namespace) -> int:
    from agent.model.loading import Trust, load
    from agent.model.store import SHIPPED, Store, resolve

    config = _station(options)
    store = Store(Path(config.state))
    path = store.path(options.bundle) or (resolve(SHIPPED) if options.bundle == SHIPPED else None)
    if path is not None:
        load(path, Trust.of(config))
    store.activate(options.bundle, config.bundle.initial)
    return _answer(options, {"active": options.bundle}, f"{options.bundle} passed its self-test here and is active")


def _rollback(options: argparse.Namespace) -> int:
    from agent.model.store import Store

    name = Store(Path(_station(options).state)).rollback()
    return _answer(options, {"active": name}, f"{name} is active again")


def _keygen(options: argparse.Namespace) -> int:
    from agent.bundle.signature import generate

    public = generate(options.key)
    text = f"private key: {options.key} (keep it off the stations)\npublic key:  {public} (into bundle.trusted_keys)"
    return _answer(options, {"private": str(options.key), "public": str(public)}, text)


def _sign(options: argparse.Namespace) -> int:
    from agent.bundle.archive import Archive, write_signed
    from agent.bundle.signature import sign

    out = options.out or Path(options.bundle)
    with Archive(Path(options.bundle)) as archive:
        write_signed(archive, out, sign(archive, options.key))
    return _answer(options, {"signed": str(out)}, f"{out} is signed")
