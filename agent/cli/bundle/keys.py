"""``weldwatch bundle keygen`` and ``sign``: who stands for a bundle."""

from __future__ import annotations

import argparse
from pathlib import Path

from agent.cli.bundle.answer import answer


def keygen(options: argparse.Namespace) -> int:
    """Make a pair."""
    from agent.bundle.signature import generate

    public = generate(options.key)
    text = f"private key: {options.key} (keep it off the stations)\npublic key:  {public} (into bundle.trusted_keys)"
    return answer(options, {"private": str(options.key), "public": str(public)}, text)


def sign(options: argparse.Namespace) -> int:
    """Put a signature into a bundle."""
    from agent.bundle.archive import Archive, write_signed
    from agent.bundle.signature import sign

    out = options.out or Path(options.bundle)
    with Archive(Path(options.bundle)) as archive:
        write_signed(archive, out, sign(archive, options.key))
    return answer(options, {"signed": str(out)}, f"{out} is signed")
