"""Which bundle judges, and loading it so that a bad one never does.

Invariant: ``load`` returns a model only after the archive was verified whole and the golden self-test passed on this
machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent.bundle.archive import Archive
from agent.errors import BundleError
from agent.model.session import OnnxModel, self_test

SHIPPED = "weld-demo"
_SHIPPED_FOLDER = Path(__file__).parent.parent / "demo"


@dataclass(frozen=True)
class Loaded:
    """A bundle that passed its self-test, ready to judge."""

    model: OnnxModel
    path: Path
    notice: str | None
    self_test_deviation: float  #: largest absolute deviation of a golden output
    refusals: tuple[str, ...] = ()  #: preferred variants that did not pass here, one line each


def resolve(wanted: str) -> Path:
    """From ``bundle.initial`` or ``--bundle`` to a file: a path to a .pipeline file, or ``weld-demo``, which ships."""
    if wanted == SHIPPED:
        shipped = sorted(_SHIPPED_FOLDER.glob(f"{SHIPPED}-*.pipeline"))
        if not shipped:
            raise BundleError(
                f"{wanted}: the shipped bundle is missing; install weldwatch again or run make demo-bundle"
            )
        return shipped[-1]
    path = Path(wanted)
    if path.is_file():
        return path
    raise BundleError(f"{wanted}: no such bundle; give the path of a .pipeline file, or {SHIPPED!r}, which ships")


def load(wanted: str) -> Loaded:
    """Verify, load and test. Variants are tried in the manifest's order; the first that passes judges.

    ``BundleError`` when none does.
    """
    with Archive(resolve(wanted)) as archive:
        refusals: list[str] = []
        for variant in archive.manifest.variants:
            try:
                model = OnnxModel(archive, variant)
                deviation = self_test(archive, model)
            except BundleError as error:
                refusals.append(str(error))
                continue
            return Loaded(model, archive.path, archive.manifest.notice, deviation, tuple(refusals))
    raise BundleError(refusals[0])
