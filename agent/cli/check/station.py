"""What belongs to the station itself: user, bundle, folders, cameras."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli.check.finding import Finding, is_folder, is_there, nearest

if TYPE_CHECKING:
    from agent.config import AgentConfig


def user(before: int, path: str) -> Finding:
    """As whom the rest is tried, and whether that user can read the configuration."""
    import pwd

    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    if not os.access(path, os.R_OK):
        return Finding("user", "failed", f"{name} cannot read {path}", "chgrp it to the agent's group, mode 0640")
    if uid == 0:
        return Finding(
            "user", "warning", "tried as root, who may do everything", "give the state folder to a user of its own"
        )
    return Finding(
        "user", "ok", f"the rest is tried as {name}" + (", who owns the state folder" if before == 0 else "")
    )


def bundle(config: AgentConfig) -> Iterator[Finding]:
    """The one that would judge at a start: verified, and tested on this machine."""
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


def folders(config: AgentConfig) -> Iterator[Finding]:
    """Every folder that is read or written."""
    from agent.config import FolderConfig

    for index, source in enumerate(config.sources):
        if not isinstance(source, FolderConfig):
            continue
        key, path = f"sources[{index}].path", Path(source.path)
        needs = os.R_OK | os.X_OK | (0 if source.after == "keep" else os.W_OK)
        if not is_folder(path):
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
    yield from _ways_in(config)
    yield _writable("state", Path(config.state))
    yield _writable("results.directory", Path(config.results.directory))


def _ways_in(config: AgentConfig) -> Iterator[Finding]:
    """Folders that bundles come by."""
    drop, remote = config.bundle.drop_folder, config.bundle.remote.folder
    if drop is not None:
        if is_folder(Path(drop)):
            yield _writable("bundle.drop_folder", Path(drop))
        else:
            yield Finding("bundle.drop_folder", "failed", f"{drop} is not a folder", "create or mount it")
    if remote is not None:
        if os.access(remote, os.R_OK | os.X_OK) and is_folder(Path(remote)):
            yield Finding("bundle.remote.folder", "ok", f"{remote} can be read")
        else:
            detail = f"{remote} is not a folder that this user may read"
            yield Finding("bundle.remote.folder", "failed", detail, "create or mount it, or change its mode")


def ledger(config: AgentConfig) -> Iterator[Finding]:
    """What a start would open, looked at without touching it."""
    from agent.errors import WeldwatchError
    from agent.ledger.database import DAMAGED_MARK, FILE
    from agent.ledger.reader import Reader

    state = Path(config.state)
    if not is_there(state / FILE):
        yield Finding("ledger", "ok", f"none in {state} yet; the first start makes it")
        return
    if is_there(state / DAMAGED_MARK):
        detail = f"{state / FILE} turned out to be damaged; the next start sets it aside and begins a new one"
        yield Finding("ledger", "warning", detail, "test the disk and its power supply")
        return
    try:
        with Reader(state) as opened:
            yield Finding("ledger", "ok", f"{opened.ledger_id} can be read")
    except WeldwatchError as error:
        remedy = (
            "if it is a newer weldwatch's, install that version; one that is damaged a start sets aside, and goes on"
        )
        yield Finding("ledger", "failed", str(error), remedy)


def cameras(config: AgentConfig) -> Iterator[Finding]:
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

    place = nearest(folder)
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".weldwatch-check-"):
            pass
    except OSError as error:
        return Finding(key, "failed", f"{place}: {error.strerror}", "change its owner, or choose another folder")
    return Finding(key, "ok", f"{folder} {'can be written' if place == folder else 'will be created'}")
