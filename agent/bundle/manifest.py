"""The manifest: all that is needed to run, trust and repeat a model, as typed data.

Invariants: what this version does not know it refuses (an ignored preprocessing step would judge parts with wrong
numbers); every other entry of the bundle stands in ``files`` with its size and SHA-256.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from agent.bundle.preprocess import Preprocessing
from agent.errors import BundleError
from agent.ports import Decision

SCHEMA = "weldwatch.bundle/1"
INPUT_NAME = "input"

#: In Python alone `$` also fits before a newline at the end; with `(?!\n)` it says the same there as in JSON Schema.
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$(?!\n)", max_length=64)]
Version = Annotated[str, Meta(pattern=r"^\d+\.\d+\.\d+([-+][0-9A-Za-z.-]+)?$(?!\n)", max_length=64)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
Probability = Annotated[float, Meta(ge=0, le=1)]


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every part refuses what it does not know."""


class FileFacts(_Part, frozen=True):
    """Size and digest of one entry."""

    bytes: Annotated[int, Meta(ge=0)]
    sha256: Sha256


class DecisionRule(_Part, frozen=True):
    """From probabilities to an evaluation; the limits were chosen on validation recordings."""

    good: Annotated[list[int], Meta(min_length=1)]  #: indices of the labels that are no defect
    threshold: Probability  #: defect probability at or above: NotOK
    review: tuple[Probability, Probability] | None = None  #: low ≤ p < high: NotDecidable, look at it yourself
    temperature: Annotated[float, Meta(gt=0)] = 1.0  #: already folded into the graph; kept for the record
    shift: float = 0.0  #: of the margin, before the temperature; folded in as well


class Variant(_Part, frozen=True):
    """One ONNX file of the same model."""

    file: str
    decision: DecisionRule | None = None  #: where quantising moved the probabilities; None: the manifest's own
    tolerance: Annotated[float, Meta(gt=0, le=0.5)] = 1e-3  #: of golden outputs, absolute, on any machine


class Golden(_Part, frozen=True):
    """An image and the probabilities that each variant must give for it."""

    image: str
    outputs: dict[str, list[Probability]]


class Limits(_Part, frozen=True):
    """Limits that a frame must keep to be decidable, by name of the measure."""

    limits: dict[str, float] = {}


class WeightsOrigin(_Part, frozen=True):
    """Where the training started from."""

    name: str
    origin: str
    licence: str
    sha256: Sha256 | None = None


class TrainingFacts(_Part, frozen=True, kw_only=True):
    """How the model came to be: enough to repeat it and to defend its numbers."""

    synthetic: bool  #: trained on procedural pictures: must not judge real welds
    data: dict[str, Any]  #: digest, counts, recordings a split
    split: str  #: "recording", or "frame" (leaky, for comparison only)
    recipe: dict[str, Any]
    metrics: dict[str, Any]  #: on test recordings, with intervals
    weights: WeightsOrigin
    made_with: dict[str, str] = {}  #: versions of the libraries


class Manifest(_Part, frozen=True, kw_only=True):
    """``manifest.json`` of a bundle."""

    schema: str = SCHEMA
    name: Name
    version: Version
    created_at: str
    notice: str | None = None  #: shown wherever the bundle is shown
    labels: Annotated[list[str], Meta(min_length=2, max_length=64)]
    variants: Annotated[dict[str, Variant], Meta(min_length=1)]  #: in the order of preference
    preprocessing: Preprocessing
    decision: DecisionRule
    quality: Limits | None = None
    novelty: Limits | None = None
    golden: list[Golden]
    training: TrainingFacts
    files: dict[str, FileFacts]

    def decision_of(self, variant: str) -> Decision:
        """The rule that holds for one variant."""
        rule = self.variants[variant].decision or self.decision
        return Decision(tuple(self.labels), tuple(rule.good), rule.threshold, rule.review)


def parse(data: bytes, where: str) -> Manifest:
    """Read and check ``manifest.json``. ``BundleError`` names what is wrong."""
    try:
        schema = msgspec.json.decode(data, type=_SchemaOnly).schema
        if schema != SCHEMA:
            raise BundleError(f"{where}: schema {schema!r}, this weldwatch reads {SCHEMA!r}; upgrade weldwatch")
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BundleError(f"{where}: manifest.json: {' '.join(str(error).split())}") from None
    _check(manifest, where)
    return manifest


def encode(manifest: Manifest) -> bytes:
    """The manifest as it stands in a bundle: UTF-8 JSON, indented, keys in their own order."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


class _SchemaOnly(msgspec.Struct):
    schema: str


def _check(manifest: Manifest, where: str) -> None:
    """What one field alone cannot tell."""

    def refuse(what: str) -> None:
        raise BundleError(f"{where}: manifest.json: {what}")

    count = len(manifest.labels)
    if len(set(manifest.labels)) != count:
        refuse("two labels are the same")
    for name, variant in manifest.variants.items():
        if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
            refuse(f"variant name {name!r} is not plain")
        if variant.file not in manifest.files:
            refuse(f"variants.{name}.file {variant.file!r} is not listed in files")
        rule = variant.decision or manifest.decision
        if not all(0 <= index < count for index in rule.good) or len(set(rule.good)) >= count:
            refuse(f"decision.good {rule.good} does not fit {count} labels")
        if rule.review is not None and not rule.review[0] <= rule.threshold <= rule.review[1]:
            refuse("decision.review is [low, high] around the threshold: low ≤ threshold ≤ high")
    for part in ("quality", "novelty"):
        if getattr(manifest, part) is not None:
            refuse(f"{part} limits are not applied by this weldwatch, and ignoring them could pass a defect; upgrade")
    if manifest.preprocessing.size != (128, 128):
        refuse(f"preprocessing.size is {list(manifest.preprocessing.size)}, the input is [N,128,128,3]")
    for golden in manifest.golden:
        if golden.image not in manifest.files:
            refuse(f"golden image {golden.image!r} is not listed in files")
        for variant_name, outputs in golden.outputs.items():
            if variant_name not in manifest.variants or len(outputs) != count:
                refuse(f"golden outputs of {golden.image!r} do not fit variant {variant_name!r}")
    for name in manifest.variants:
        if not any(name in golden.outputs for golden in manifest.golden):
            refuse(f"variant {name!r} has no golden image: it could not be tested on the station")
