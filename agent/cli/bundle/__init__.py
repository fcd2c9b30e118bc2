"""``weldwatch bundle``: the life of a bundle on the station."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from agent.cli.bundle import compare, keys, showing, station
from agent.cli.bundle.pages import PAGES

_EPILOG = """\
a new model on a station:
  weldwatch bundle inspect steel-1.1.0.pipeline   what it is, and its numbers
  weldwatch bundle install steel-1.1.0.pipeline   verified, beside the others
  weldwatch bundle shadow steel-1.1.0             judges beside the active one
  weldwatch bundle compare --labels reviewed.csv  escapes and overkill of both
  weldwatch bundle activate steel-1.1.0           self-tested, in use within 2 s
  weldwatch bundle rollback                       back to what judged before

next: each verb has its own help: weldwatch bundle activate --help.
"""

_NAMED = {
    "BUNDLE": "a .pipeline file, or weld-demo, which ships with the agent",
    "FILE": "a .pipeline file",
    "NAME-VERSION": "an installed bundle, as weldwatch bundle list names it",
}


def add_to(commands: Any) -> None:
    """Describe the command."""
    top: argparse.ArgumentParser = commands.add_parser(
        "bundle",
        help="inspect, sign, install, try out, activate, roll back",
        description="The life of a bundle on the station. A bundle never judges before it was verified whole and its "
        "golden images gave on this machine what they gave in training.",
        epilog=_EPILOG,
    )
    verbs = top.add_subparsers(title="verbs", metavar="VERB", required=True)

    def verb(name: str, help_: str, work: Any, *, file: str | None = None, at_station: bool = False) -> Any:
        about, end = PAGES[name]
        command = verbs.add_parser(name, help=help_, description=about, epilog=end)
        if file:
            command.add_argument("bundle", metavar=file, help=_NAMED[file])
        if at_station:
            command.add_argument("--config", metavar="FILE", help="the station's configuration; default: as for run")
        command.add_argument("--json", action="store_true", help="answer as one JSON object")
        command.set_defaults(work=work)
        return command

    shown = verb(
        "inspect", "show what a bundle is: labels, numbers, threshold, who signed", showing.inspect, file="BUNDLE"
    )
    verified = verb("verify", "verify a bundle whole and run its self-test here", showing.verify, file="BUNDLE")
    for command in (shown, verified):
        command.add_argument(
            "--trusted-keys",
            metavar="DIR",
            type=Path,
            help="folder of public keys (*.pub; default: who signed it is not looked at)",
        )
    verb("install", "copy a bundle into the station's store", station.install, file="FILE", at_station=True)
    verb("list", "show installed bundles, which one is active and which one judges", station.show, at_station=True)
    verb(
        "activate", "let an installed bundle judge from now on", station.activate, file="NAME-VERSION", at_station=True
    )
    verb("rollback", "go back to the bundle that judged before", station.rollback, at_station=True)
    _add_shadow(verb)
    keygen = verb("keygen", "make a key pair for signing bundles", keys.keygen)
    keygen.add_argument("key", metavar="KEY", type=Path, help="file for the private key; KEY.pub gets the public one")
    sign = verb("sign", "sign a bundle with a private key", keys.sign, file="FILE")
    sign.add_argument("--key", required=True, type=Path, help="private key, from keygen")
    sign.add_argument("--out", type=Path, help="signed copy (default: the file itself)")


def _add_shadow(verb: Any) -> None:
    shadow = verb(
        "shadow", "let a candidate judge the same frames beside the active bundle", station.shadow, at_station=True
    )
    which = shadow.add_mutually_exclusive_group(required=True)
    which.add_argument("bundle", metavar="NAME-VERSION", nargs="?", help=_NAMED["NAME-VERSION"])
    which.add_argument("--off", action="store_true", help="end it")
    compared = verb("compare", "compare the candidate with the active bundle, on what both judged", compare.compare)
    compared.add_argument(
        "--labels", metavar="FILE", type=Path, help="reviewed labels: CSV of result_id (or sha256, or image) and label"
    )
    compared.add_argument("--since", metavar="DAY", help="from this day on, YYYY-MM-DD (default: all)")
    compared.add_argument("--candidate", metavar="NAME-VERSION", help="default: the one that judged last")
    where = compared.add_mutually_exclusive_group()
    where.add_argument("--config", metavar="FILE", help="the station's configuration; default: as for run")
    where.add_argument("--results", metavar="DIR", help="results folder, where there is no configuration")
