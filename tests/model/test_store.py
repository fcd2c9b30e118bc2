"""The store: what is installed, what judges, and how to go back; whatever is killed when."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

from agent.bundle import signature
from agent.bundle.archive import Archive, write_signed
from agent.errors import BundleError, UsageError
from agent.model.loading import Trust, load
from agent.model.store import KEEP, Store, resolve
from tests.support.bundles import brightness_bundle


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state")


def a_bundle(folder: Path, version: str = "1.0.0", threshold: float = 0.5) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"upload-{version}.pipeline"
    brightness_bundle(path, version=version, threshold=threshold)
    return path


def test_install_activate_and_rollback(store: Store, tmp_path: Path) -> None:
    assert store.candidates("weld-demo") == ["weld-demo"]
    for version in ("1.0.0", "1.1.0"):
        assert store.install(a_bundle(tmp_path / "up", version)) == f"brightness-{version}"
    store.activate("brightness-1.0.0")
    store.activate("brightness-1.1.0")
    assert store.candidates("weld-demo") == ["brightness-1.1.0", "brightness-1.0.0", "weld-demo"]
    assert store.rollback() == "brightness-1.0.0"
    assert load(resolve("brightness-1.0.0", store)).model.facts.version == "1.0.0"
    assert store.rollback() == "weld-demo", "what judged before the first activation"
    with pytest.raises(BundleError, match="nothing to go back to"):
        store.rollback()
    store.activate("brightness-1.1.0")
    store.activate("weld-demo")
    assert store.candidates("other")[0] == "weld-demo", "the shipped one needs no installation"


@pytest.mark.parametrize("second", ["activate", "rollback"])
def test_two_changes_in_the_same_instant_lose_nothing_of_the_history(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: str
) -> None:
    """Command line, drop folder and agent are processes and threads of their own: both look before either writes."""
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        store.install(a_bundle(tmp_path / "up", version))
    store.activate("brightness-1.0.0")
    together, look = threading.Barrier(2), Store.pointer

    def look_together(self: Store) -> object:
        found = look(self)
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(0.5)
        return found

    other = Store(store.folder.parent)
    works = [lambda: store.activate("brightness-2.0.0")]
    works.append((lambda: other.activate("brightness-3.0.0")) if second == "activate" else other.rollback)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "pointer", look_together)
        threads = [threading.Thread(target=work) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    pointer = store.pointer()
    assert pointer is not None
    after = (pointer.active, *pointer.history)
    if second == "activate":
        assert after in {
            ("brightness-3.0.0", "weld-demo", "brightness-1.0.0", "brightness-2.0.0"),
            ("brightness-2.0.0", "weld-demo", "brightness-1.0.0", "brightness-3.0.0"),
        }
    else:
        assert after in {("brightness-1.0.0", "weld-demo"), ("brightness-2.0.0", "weld-demo")}


def test_a_process_that_keeps_the_pointer_for_itself_is_no_hang(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.install(a_bundle(tmp_path / "up"))
    store.activate("brightness-1.0.0")
    monkeypatch.setattr("agent.model.store._LOCK_S", 0.05)
    with (store.folder / ".pointer.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(BundleError, match="another process"):
            store.activate("weld-demo")
    store.activate("weld-demo")


def test_only_what_is_installed_can_be_activated(store: Store, tmp_path: Path) -> None:
    store.install(a_bundle(tmp_path / "up"))
    for name in ("other-1.0.0", "../../etc/passwd", "", "brightness-1.0.0/../x"):
        with pytest.raises(BundleError, match="not installed; installed are"):
            store.activate(name)
    assert store.pointer() is None


def test_one_version_is_one_bundle(store: Store, tmp_path: Path) -> None:
    store.install(a_bundle(tmp_path / "up"))
    store.install(a_bundle(tmp_path / "up"))
    with pytest.raises(BundleError, match="give yours a new version"):
        store.install(a_bundle(tmp_path / "other", threshold=0.9))
    assert store.names() == ["brightness-1.0.0"]


def test_what_is_damaged_is_not_installed_and_leaves_nothing(store: Store, tmp_path: Path) -> None:
    path = a_bundle(tmp_path / "up")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BundleError, match=r"upload-1\.0\.0\.pipeline: not a whole bundle"):
        store.install(path)
    assert list(store.folder.iterdir()) == []


def test_the_newest_stay_and_so_does_what_is_needed(store: Store, tmp_path: Path) -> None:
    store.install(a_bundle(tmp_path / "up", "1.0.0"))
    store.activate("brightness-1.0.0")
    for number in range(1, KEEP + 4):
        store.install(a_bundle(tmp_path / "up", f"1.{number}.0"))
    assert "brightness-1.0.0" in store.names()
    assert len(store.names()) == KEEP + 1


def test_a_broken_pointer_is_one_line(store: Store, tmp_path: Path) -> None:
    store.install(a_bundle(tmp_path / "up"))
    (store.folder / "active.json").write_text("{")
    with pytest.raises(BundleError, match="activate a bundle anew"):
        store.pointer()
    store.activate("brightness-1.0.0")
    assert store.candidates("weld-demo")[0] == "brightness-1.0.0", "activating anew is the way out"


def test_what_a_configuration_names_and_what_a_kill_left(store: Store, tmp_path: Path) -> None:
    store.install(a_bundle(tmp_path / "up", "1.0.0"), initial="brightness-1.0.0")
    left = store.folder / ".0.tmp"
    left.write_bytes(b"half a bundle")
    os.utime(left, (0, 0))
    for number in range(1, KEEP + 4):
        store.install(a_bundle(tmp_path / "up", f"1.{number}.0"), initial="brightness-1.0.0")
    assert "brightness-1.0.0" in store.names(), "bundle.initial is in use"
    assert not left.exists()


def test_too_slow_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"bundle\.budget_ms is 1e-06"):
        load(a_bundle(tmp_path / "up"), Trust(budget_ms=1e-6))


class FullDisk:
    """``os.fsync`` as on a disk that has just become full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fsync(_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", fsync)


def test_no_space_left_is_one_line_and_the_active_bundle_goes_on(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("1.0.0", "2.0.0"):
        store.install(a_bundle(tmp_path / "up", version))
    store.activate("brightness-1.0.0")
    before = sorted((file.name, file.read_bytes()) for file in store.folder.iterdir())
    third = a_bundle(tmp_path / "up", "3.0.0")
    with monkeypatch.context() as patch:
        FullDisk(patch)
        for work in (
            lambda: store.install(third),
            lambda: store.activate("brightness-2.0.0"),
            lambda: store.set_shadow("brightness-2.0.0"),
        ):
            with pytest.raises(BundleError, match="No space left on device"):
                work()
    assert sorted((file.name, file.read_bytes()) for file in store.folder.iterdir()) == before
    store.install(third)


def signed_by(key: Path, source: Path, target: Path) -> Path:
    with Archive(source) as archive:
        write_signed(archive, target, signature.sign(archive, key))
    return target


def test_with_trust_configured_only_signed_bundles_judge(store: Store, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    plain = a_bundle(tmp_path / "up")
    for name in ("plant", "stranger"):
        signature.generate(tmp_path / name)
    (keys / "plant.pub").write_bytes((tmp_path / "plant.pub").read_bytes())
    signed = signed_by(tmp_path / "plant", plain, tmp_path / "signed.pipeline")
    foreign = signed_by(tmp_path / "stranger", plain, tmp_path / "foreign.pipeline")

    assert load(signed, Trust(keys)).signed_by == "plant"
    for path, said in ((plain, "is not signed"), (foreign, "is signed by nobody that is trusted")):
        for refused in (lambda path=path: load(path, Trust(keys)), lambda path=path: store.install(path, keys)):
            with pytest.raises(BundleError, match=said):
                refused()
    (keys / "plant.pub").unlink()
    with pytest.raises(BundleError, match="signed by nobody"):
        load(signed, Trust(keys))


def test_what_was_changed_after_signing_never_judges(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "plant.pub").write_bytes(signature.generate(tmp_path / "plant").read_bytes())
    honest = signed_by(tmp_path / "plant", a_bundle(tmp_path / "up"), tmp_path / "honest.pipeline")
    with Archive(honest) as archive:
        stolen = archive.signature
    assert stolen is not None
    lax = a_bundle(tmp_path / "lax", threshold=0.99)
    with Archive(lax) as archive:
        write_signed(archive, tmp_path / "forged.pipeline", stolen)
    with pytest.raises(BundleError, match="signed by nobody that is trusted"):
        load(tmp_path / "forged.pipeline", Trust(keys))


def test_keys_that_cannot_be_read_are_no_trust(tmp_path: Path) -> None:
    path = a_bundle(tmp_path / "up")
    with pytest.raises(BundleError, match="trusted_keys"):
        load(path, Trust(tmp_path / "nowhere"))
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "x.pub").write_text("hello")
    with pytest.raises(BundleError, match="not a public key"):
        load(path, Trust(tmp_path / "keys"))
    signature.generate(tmp_path / "plant")
    with pytest.raises(UsageError, match="never overwritten"):
        signature.generate(tmp_path / "plant")
    assert (tmp_path / "plant").stat().st_mode & 0o777 == 0o600


INSTALL_FOR_EVER = """
import sys
from itertools import cycle
from pathlib import Path
from agent.model.store import Store
store, uploads = Store(Path(sys.argv[1])), sorted(Path(sys.argv[2]).glob("*.pipeline"))
print("ready", flush=True)
for upload in cycle(uploads):
    store.activate(store.install(upload))
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_working_station(store: Store, tmp_path: Path) -> None:
    for number in range(3):
        a_bundle(tmp_path / "up", f"1.{number}.0")
    chance = random.Random(11)
    command = [sys.executable, "-c", INSTALL_FOR_EVER, str(store.folder.parent), str(tmp_path / "up")]
    for _ in range(30):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(chance.uniform(0.0, 0.05))  # the kill is to come at any moment
            process.send_signal(signal.SIGKILL)
        pointer = store.pointer()
        if pointer is not None:
            loaded = load(resolve(pointer.active, store))
            assert f"brightness-{loaded.model.facts.version}" == pointer.active
        for name in store.names():
            with Archive(resolve(name, store)):
                pass
    assert store.pointer() is not None


@pytest.mark.slow
def test_a_thousand_mutated_bundles_are_refused_or_harmless(store: Store, tmp_path: Path) -> None:
    """Bytes flipped, cut, doubled or inserted; manifest fields replaced by nonsense. The active bundle stays."""
    whole = a_bundle(tmp_path / "up").read_bytes()
    store.install(tmp_path / "up" / "upload-1.0.0.pipeline")
    store.activate("brightness-1.0.0")
    before = {file.name: file.read_bytes() for file in store.folder.iterdir()}
    chance = random.Random(3)
    upload, refused = tmp_path / "mutant.pipeline", 0
    for number in range(1000):
        if number % 4 == 3:
            edited(tmp_path / "up" / "upload-1.0.0.pipeline", upload, chance)
        else:
            upload.write_bytes(mutated(whole, chance))
        try:
            name = store.install(upload)
            load(resolve(name, store))
        except BundleError as error:
            refused += 1
            assert "\n" not in str(error)  # noqa: PT017  # an accepted mutant is no failure, so raises() does not fit
        assert store.pointer() == msgspec.json.decode(before["active.json"], type=type(store.pointer()))
    after = {file.name: file.read_bytes() for file in store.folder.iterdir() if file.name in before}
    assert after == before
    assert refused > 900


def mutated(whole: bytes, chance: random.Random) -> bytes:
    data, at = bytearray(whole), chance.randrange(len(whole))
    kind = chance.randrange(4)
    if kind == 0:
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(len(data))] ^= chance.randint(1, 255)
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        data[at:at] = data[at : at + chance.randint(1, 500)]
    else:
        data[at:at] = chance.randbytes(chance.randint(1, 100))
    return bytes(data)


def edited(source: Path, target: Path, chance: random.Random) -> None:
    """A whole zip whose manifest says something else: the rest, digests included, stays as it was."""
    import zipfile

    nonsense = [None, -1, 1e308, "", "x" * 10_000, [], {}, [0] * 999, "../../x", True, {"a": {"b": []}}]
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w") as out:
        for name in archive.namelist():
            data = archive.read(name)
            if name == "manifest.json":
                manifest = json.loads(data)
                part = manifest
                key = chance.choice(sorted(part))
                while isinstance(part[key], dict) and part[key] and chance.random() < 0.7:
                    part, key = part[key], chance.choice(sorted(part[key]))
                part[key] = chance.choice(nonsense)
                data = json.dumps(manifest).encode()
            out.writestr(name, data)
