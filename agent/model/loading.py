"""From a file to a model that may judge: verified whole, signed where that is asked for, self-tested on this machine.

Invariants: ``load`` returns a model only after all three. Of a bundle's variants the first that passes is taken, on the
device that is named, or with ``auto`` on the fastest of those that pass; a named device that fails gives way to the
processor. What was preferred and did not pass is told, one line each.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent.bundle import signature
from agent.bundle.archive import Archive
from agent.config import AgentConfig
from agent.errors import BundleError
from agent.logs import log
from agent.model.devices import Device, to_try
from agent.model.session import OnnxModel, self_test

_log = log("bundles")


@dataclass(frozen=True)
class Loaded:
    """A bundle that passed its self-test, ready to judge."""

    model: OnnxModel
    path: Path
    notice: str | None
    self_test_deviation: float  #: largest absolute deviation of a golden output
    latency_ms: float  #: median of the self-test's frames, preprocessing and inference
    signed_by: str | None = None  #: name of the trusted key
    refusals: tuple[str, ...] = ()  #: what was preferred and did not pass here, one line each

    @property
    def name(self) -> str:
        """``<name> <version>``, for people."""
        return f"{self.model.facts.name} {self.model.facts.version}"


@dataclass(frozen=True)
class Trust:
    """What a bundle has to show before it may judge, and where it may run."""

    keys: Path | None = None  #: folder of public keys; None: unsigned bundles are taken
    device: str = "auto"
    budget_ms: float | None = None  #: slowest median latency of the self-test
    engines: Path | None = None  #: where devices keep what they have built

    @classmethod
    def of(cls, config: AgentConfig) -> Trust:
        """What a station's configuration asks for."""
        bundle = config.bundle
        keys = Path(bundle.trusted_keys) if bundle.trusted_keys else None
        return cls(keys, bundle.device, bundle.budget_ms, Path(config.state) / "engines")


@dataclass(frozen=True)
class Choice:
    """What a rehearsal found best: nothing else need be tried."""

    variant: str
    device: str
    refusals: tuple[str, ...] = ()


def load(path: Path, trust: Trust = Trust(), choice: Choice | None = None) -> Loaded:
    """Verify, load and test; with ``choice`` only what it names. ``BundleError`` when nothing passes."""
    with Archive(path) as archive:
        signed_by = signature.require(archive, trust.keys)
        refusals = list(choice.refusals) if choice else []
        for variant in [choice.variant] if choice else archive.manifest.variants:
            passed: list[tuple[float, float, OnnxModel]] = []
            for device in [Device(choice.device, trust.engines)] if choice else to_try(trust.device, trust.engines):
                try:
                    deviation, latency, model = _tested(archive, variant, device, trust)
                except BundleError as error:
                    refusals.append(str(error))
                    continue
                passed.append((latency, deviation, model))
                if trust.device != "auto":
                    break
            if passed:
                latency, deviation, model = min(passed, key=lambda one: one[0])
                notice = archive.manifest.notice
                return Loaded(model, path, notice, deviation, latency, signed_by, tuple(refusals))
    raise BundleError(refusals[-1] if choice else refusals[0])


def _tested(archive: Archive, variant: str, device: Device, trust: Trust) -> tuple[float, float, OnnxModel]:
    known = archive.manifest.variants.get(variant)
    folder = device.folder(archive.manifest.files[known.file].sha256) if known else None
    if folder is not None and device.name == "tensorrt" and not folder.exists():
        _log.info("%s: building the %s engine of %s, minutes the first time", archive.path, device.name, variant)
    model = OnnxModel(archive, variant, device)
    deviation, latency = self_test(archive, model)
    if trust.budget_ms is not None and latency > trust.budget_ms:
        slow = f"{latency:.1f} ms a frame, bundle.budget_ms is {trust.budget_ms:g}"
        raise BundleError(f"{archive.path}: variant {variant} on {device.name} takes {slow}")
    return deviation, latency, model
