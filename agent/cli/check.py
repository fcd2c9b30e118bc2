"""``weldwatch check``: try everything that a configuration names, and say what to do about what does not work."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from agent.config import AgentConfig


@dataclass(frozen=True)
class Finding:
    """One thing that was tried."""

    name: str
    state: Literal["ok", "warning", "failed"]
    detail: str
    remedy: str = ""


def add_to(commands: Any) -> None:
    """Describe the command."""
    command: argparse.ArgumentParser = commands.add_parser(
        "check",
        help="validate the configuration and try everything it names",
        description="Validate the configuration and try everything it names: bundle with its self-test, folders, "
        "broker, disk, clock. Exit code 1 if something failed, 2 if the configuration itself is wrong.",
    )
    command.add_argument("--config", metavar="FILE", help="default: as for run")
    command.add_argument("--json", action="store_true", help="findings as one JSON object")
    command.set_defaults(work=work)


def work(options: argparse.Namespace) -> int:
    """Run all checks, show each as it is done."""
    from agent import config

    path = config.find(options.config)
    settings = config.load(path)
    findings = [Finding("configuration", "ok", f"{path} is valid")]
    if not options.json:
        _show(findings[0])
    for trial in (_bundle, _folders, _cameras, _disk, _broker, _clock):
        for finding in trial(settings):
            findings.append(finding)
            if not options.json:
                _show(finding)
    failed = any(finding.state == "failed" for finding in findings)
    if options.json:
        print(json.dumps({"ok": not failed, "findings": [asdict(finding) for finding in findings]}))
    return 1 if failed else 0


def _show(finding: Finding) -> None:
    from agent.logs import printable

    mark = {"ok": "ok     ", "warning": "warning", "failed": "FAILED "}[finding.state]
    colour = {"ok": "32", "warning": "33", "failed": "31"}[finding.state]
    if sys.stdout.isatty():
        mark = f"\x1b[{colour}m{mark}\x1b[0m"
    remedy = f" → {finding.remedy}" if finding.remedy else ""
    print(mark, printable(f"{finding.name}: {finding.detail}{remedy}"), sep="  ", flush=True)


def _bundle(config: AgentConfig) -> Iterator[Finding]:
    from agent.errors import BundleError
    from agent.model.loading import Trust, load
    from agent.model.store import Store, resolve

    try:
        store, keys = Store(Path(config.state)), config.bundle.trusted_keys
        trust = Trust.of(config)
        loaded = load(resolve(store.candidates(config.bundle.initial)[0], store), trust)
    except BundleError as error:
        yield Finding(
            "bundle",
            "failed",
            str(error),
            "activate a bundle that passes (weldwatch bundle), or name one in bundle.initial",
        )
        return
    facts = loaded.model.facts
    detail = f"{facts.name} {facts.version} ({facts.variant}) passed its self-test on this machine"
    yield Finding("bundle", "ok", f"{detail}, golden images within {loaded.self_test_deviation:.1g}")
    if keys is None:
        yield Finding("bundle.trusted_keys", "warning", "not set: unsigned bundles are taken", "see docs/security.md")
    for refusal in loaded.refusals:
        yield Finding("bundle", "warning", refusal, f"the variant {facts.variant} judges instead")
    if loaded.notice:
        yield Finding("bundle", "warning", loaded.notice, "train on your own frames: docs/training.md")


def _folders(config: AgentConfig) -> Iterator[Finding]:
    from agent.config import FolderConfig

    for index, source in enumerate(config.sources):
        if not isinstance(source, FolderConfig):
            continue
        key, path = f"sources[{index}].path", Path(source.path)
        needs = os.R_OK | os.X_OK | (0 if source.after == "keep" else os.W_OK)
        if not path.is_dir():
            yield Finding(
                key, "failed", f"{path} is not a folder", "create or mount it; the agent waits for it meanwhile"
            )
        elif not os.access(path, needs):
            wanted = "read" if source.after == "keep" else "read and written"
            yield Finding(key, "failed", f"{path} cannot be {wanted} by this user", "change its owner or mode")
        else:
            yield Finding(key, "ok", f"{path} can be watched")
        for field in ("archive", "rejected"):
            target = getattr(source, field)
            if target is not None:
                yield _writable(f"sources[{index}].{field}", Path(target))
    yield _writable("state", Path(config.state))
    yield _writable("results.directory", Path(config.results.directory))


def _cameras(config: AgentConfig) -> Iterator[Finding]:
    """One frame of each, as the agent would take it."""
    import time

    from agent.config import CameraConfig
    from agent.errors import ImageError, RetryError, UsageError
    from agent.sources.camera.build import folder_of, grabber_of

    for index, source in enumerate(config.sources):
        if not isinstance(source, CameraConfig):
            continue
        key, begin = f"sources[{index}].url", time.monotonic()
        yield _writable(f"sources[{index}].save", folder_of(source, config.results))
        try:
            grabber = grabber_of(source)()
        except UsageError as error:
            yield Finding(key, "failed", str(error), "the agent does not start without it")
            continue
        try:
            grabber.open()
            grab = grabber.read()
            if grab is None:
                yield Finding(key, "failed", "the film has no frame", "give another file")
                continue
            size = f"{grab.picture.width}×{grab.picture.height}"
            yield Finding(key, "ok", f"a frame of {size} after {time.monotonic() - begin:.1f} s")
        except (RetryError, ImageError) as error:
            yield Finding(key, "failed", str(error), "the agent runs all the same and goes on trying")
        finally:
            grabber.close()


def _writable(key: str, folder: Path) -> Finding:
    """A folder in which a file can be made, or that can be made itself."""
    import tempfile

    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=nearest, prefix=".weldwatch-check-"):
            pass
    except OSError as error:
        return Finding(key, "failed", f"{nearest}: {error.strerror}", "change its owner, or choose another folder")
    return Finding(key, "ok", f"{folder} {'can be written' if nearest == folder else 'will be created'}")


def _disk(config: AgentConfig) -> Iterator[Finding]:
    from agent.app.places import free_mb

    wanted = config.results.min_free_mb
    for key, folder in (("state", Path(config.state)), ("results.directory", Path(config.results.directory))):
        nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = free_mb(nearest) or 0
        if free < wanted:
            yield Finding(
                f"disk of {key}", "failed", f"{free} MB free", f"free space: inspection waits below {wanted} MB"
            )
        else:
            yield Finding(f"disk of {key}", "ok", f"{free} MB free")


def _broker(config: AgentConfig) -> Iterator[Finding]:
    if config.mqtt is None:
        yield Finding("mqtt", "ok", "not configured; results stay on disk")
        return
    if config.mqtt.embedded:
        yield Finding("mqtt", "warning", "embedded broker", "for demonstrations only: it keeps nothing on disk")
        return
    from agent.delivery.mqtt import probe

    trouble = probe(config.mqtt, config.topic)
    if trouble:
        yield Finding(
            "mqtt",
            "failed",
            trouble,
            "results are kept until it is right; what names a file that is missing stops the start",
        )
    else:
        yield Finding(
            "mqtt", "ok", f"{config.mqtt.host} lets this station connect; publishing to {config.topic} is not tried"
        )


def _clock(_: AgentConfig) -> Iterator[Finding]:
    import time

    if time.time() < 1_767_225_600:  # 2026-01-01, before the first release
        yield Finding("clock", "failed", time.strftime("it is %Y-%m-%d"), "set the clock; results carry its time")
    elif Path("/run/systemd/timesync").is_dir() and not Path("/run/systemd/timesync/synchronized").exists():
        yield Finding("clock", "warning", "not synchronised", "configure NTP: timedatectl set-ntp true")
    else:
        yield Finding("clock", "ok", time.strftime("%Y-%m-%d %H:%M:%S %Z"))
