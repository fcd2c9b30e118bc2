from __future__ import annotations

import contextlib
import hashlib
import json
import stat
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.bundle.archive import MAX_DIRECTORY, Archive, is_plain_path
from agent.bundle.manifest import DecisionRule
from agent.errors import BundleError
from agent.model.loading import load
from agent.model.store import Store, resolve
from tests.support.bundles import LABELS, brightness_bundle, brightness_graph


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "brightness-1.0.0.pipeline"
    brightness_bundle(path)
    return path


def rewritten(source: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """A copy of a bundle with its entries changed, and nothing else put right."""
    with zipfile.ZipFile(source) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return target


def test_a_bundle_reads_back_as_written(bundle: Path) -> None:
    with Archive(bundle) as archive:
        assert archive.manifest.labels == LABELS
        assert archive.read("model/fp32.onnx") == brightness_graph()
        assert set(archive.manifest.files) >= {"weldingPreProcessing.py", "weldingPostProcessing.py"}


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    digests = set()
    for name in ("a", "b"):
        brightness_bundle(tmp_path / name)
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"], "no temporary file stays behind"


def drop(name: str) -> Callable[[dict[str, bytes]], None]:
    return lambda entries: entries.pop(name) and None


def put(name: str, data: bytes) -> Callable[[dict[str, bytes]], None]:
    return lambda entries: entries.update({name: data})


def edit(**fields: object) -> Callable[[dict[str, bytes]], None]:
    def change(entries: dict[str, bytes]) -> None:
        entries["manifest.json"] = json.dumps({**json.loads(entries["manifest.json"]), **fields}).encode()

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (drop("manifest.json"), "no manifest.json"),
        (drop("model/fp32.onnx"), "'model/fp32.onnx' is missing"),
        (put("extra.txt", b"x"), "'extra.txt' is not listed"),
        (put("../evil", b"x"), "not a plain relative path"),
        (put("/etc/evil", b"x"), "not a plain relative path"),
        (put("a/../../evil", b"x"), "not a plain relative path"),
        (put("model\\evil", b"x"), "not a plain relative path"),
        (put("model/fp32.onnx", b"other"), "not what the manifest lists"),
        (put("golden/0.png", b"\0" * (1 << 24)), "not what the manifest lists"),
        (edit(schema="weldwatch.bundle/2"), "upgrade weldwatch"),
        (edit(labels=["one", "two", "three"]), "do not fit variant"),
        (edit(labels=["same", "same"]), "two labels are the same"),
        (edit(decision={"good": [0], "threshold": 1.5}), "threshold"),
        (edit(decision={"good": [7], "threshold": 0.5}), "does not fit"),
        (edit(decision={"good": [0, 1], "threshold": 0.5}), "does not fit"),
        (edit(golden=[]), "no golden image"),
        (edit(decision={"good": [0], "threshold": -0.1}), "threshold"),
        (edit(decision={"good": [0], "threshold": "NaN"}), "threshold"),
        (edit(decision={"good": [0], "threshold": 0.9, "review": [0.1, 0.2]}), "around the threshold"),
        (edit(quality={"limits": {"sharpness": 3.0}}), "quality limits are not applied"),
        (edit(surprise=1), "unknown field `surprise`"),
        (put("manifest.json", b"{"), "manifest.json"),
        (put("manifest.json", b"[" * 100_000), "manifest.json"),
        (put("manifest.json", b" " * (5 << 20)), "larger than"),
    ],
)
def test_what_is_wrong_is_refused_in_one_line(
    bundle: Path, tmp_path: Path, change: Callable[[dict[str, bytes]], None], said: str
) -> None:
    with pytest.raises(BundleError) as refusal:
        Archive(rewritten(bundle, tmp_path / "bad.pipeline", change))
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_links_and_doubles_are_refused(bundle: Path, tmp_path: Path) -> None:
    link = zipfile.ZipInfo("golden/link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    linked = tmp_path / "link.pipeline"
    linked.write_bytes(bundle.read_bytes())
    with zipfile.ZipFile(linked, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(BundleError, match="not a regular file"):
        Archive(linked)

    double = tmp_path / "double.pipeline"
    double.write_bytes(bundle.read_bytes())
    with zipfile.ZipFile(double, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("golden/0.png", b"other")
    with pytest.raises(BundleError, match="stored twice"):
        Archive(double)


def test_a_bomb_is_refused_without_unpacking_it(bundle: Path, tmp_path: Path) -> None:
    def bomb(entries: dict[str, bytes]) -> None:
        manifest = json.loads(entries["manifest.json"])
        manifest["files"]["bomb"] = {"bytes": 2 << 30, "sha256": "0" * 64}
        entries["manifest.json"] = json.dumps(manifest).encode()
        entries["bomb"] = b""

    with pytest.raises(BundleError, match="more than 1024 MB"):
        Archive(rewritten(bundle, tmp_path / "bomb.pipeline", bomb))


def test_ten_gigabytes_of_zeros_are_refused_in_flat_memory(bundle: Path, tmp_path: Path) -> None:
    """An entry that unpacks to 10 GB while manifest and zip call it small; and a file that is nothing but zeros."""
    path = tmp_path / "zeros.pipeline"
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(16 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    whole = block * 640 + zlib.compressobj(9, zlib.DEFLATED, -15).flush()
    with zipfile.ZipFile(bundle) as source, zipfile.ZipFile(path, "w") as target:
        manifest = json.loads(source.read("manifest.json"))
        manifest["files"]["zeros"] = {"bytes": 1000, "sha256": "0" * 64}
        target.writestr("manifest.json", json.dumps(manifest))
        for name in manifest["files"].keys() - {"zeros"}:
            target.writestr(name, source.read(name))
        target.writestr("zeros", whole)  # stored; now it is called deflated, and 1000 bytes
        info = target.getinfo("zeros")
        info.compress_type, info.file_size = zipfile.ZIP_DEFLATED, 1000
    tracemalloc.start()
    try:
        with pytest.raises(BundleError):
            Archive(path)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    with (tmp_path / "sparse.pipeline").open("wb") as sparse:
        sparse.truncate(10 << 30)
    for use in (Archive, Store(tmp_path / "state").install):
        with pytest.raises(BundleError, match=r"not a whole bundle|more than 1088 MB"):
            use(tmp_path / "sparse.pipeline")
    assert list((tmp_path / "state" / "bundles").iterdir()) == []


def test_a_list_of_very_many_entries_is_refused_before_it_is_read(tmp_path: Path) -> None:
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 3, 20, 0, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"x"
    count = MAX_DIRECTORY // len(entry) + 1
    size = count * len(entry)
    end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, 0)
    end += struct.pack("<4sLQL", b"PK\6\7", 0, size, 1)
    end += struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    (tmp_path / "many.pipeline").write_bytes(entry * count + end)
    with pytest.raises(BundleError, match=r"its list of entries has \d+ bytes"):
        Archive(tmp_path / "many.pipeline")


def test_a_file_changed_after_the_check_is_noticed(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "stored.pipeline"
    with zipfile.ZipFile(bundle) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with Archive(path) as archive:
        data = bytearray(path.read_bytes())
        data[data.index(brightness_graph()) + 40] ^= 1
        with path.open("r+b") as file:
            file.write(data)
        with pytest.raises(BundleError, match=r"CRC|changed"):
            archive.read("model/fp32.onnx")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_cut_or_extended_bytes_never_crash_the_reader(
    bundle: Path, tmp_path: Path, data: st.DataObject
) -> None:
    whole = bytearray(bundle.read_bytes())
    if data.draw(st.booleans()):
        for at in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=4)):
            whole[at] ^= data.draw(st.integers(1, 255))
    else:
        del whole[data.draw(st.integers(0, len(whole) - 1)) :]
    path = tmp_path / "mutated.pipeline"
    path.write_bytes(whole)
    with contextlib.suppress(BundleError), Archive(path) as archive:
        assert archive.read("model/fp32.onnx") == brightness_graph(), "accepted, so it must be what was written"


@given(st.text(max_size=40))
def test_plain_paths_stay_inside(name: str) -> None:
    if is_plain_path(name):
        assert (Path("/inside") / name).resolve().is_relative_to("/inside")


def edited_graph(change: Callable[[onnx.ModelProto], None]) -> bytes:
    model = onnx.load_from_string(brightness_graph())
    change(model)
    return bytes(model.SerializeToString())


def elsewhere(model: onnx.ModelProto) -> None:
    """The graph's constant is in a file of the station."""
    (one,) = model.graph.initializer
    one.ClearField("float_data")
    one.ClearField("raw_data")
    one.data_location = onnx.TensorProto.EXTERNAL
    one.external_data.add(key="location", value="../../../etc/hostname")


def test_a_model_that_does_not_fit_the_contract_never_loads(tmp_path: Path) -> None:
    cases = {
        "size": (brightness_graph(size=64), "input is"),
        "classes": (brightness_graph(classes=3), "2 labels"),
        "name": (brightness_graph(input_name="image"), "input is"),
        "noise": (b"not onnx", "cannot load"),
        "own operator": (edited_graph(lambda model: setattr(model.graph.node[0], "domain", "evil")), "cannot load"),
        "other file": (edited_graph(elsewhere), "keeps data in other files"),
    }
    for name, (graph, said) in cases.items():
        path = tmp_path / f"{name}.pipeline"
        brightness_bundle(path, entries={"model/fp32.onnx": graph})
        with pytest.raises(BundleError, match=said):
            load(path)


def test_a_bundle_that_fails_its_self_test_never_judges(tmp_path: Path) -> None:
    path = tmp_path / "wrong.pipeline"
    manifest = brightness_bundle(path)
    wrong = [msgspec.structs.replace(manifest.golden[0], outputs={"fp32": [0.5, 0.5]}), *manifest.golden[1:]]
    brightness_bundle(path, golden=wrong)
    with pytest.raises(BundleError, match=r"self-test failed on this machine: golden/0\.png"):
        load(path)


def test_the_self_test_deviation_is_reported(bundle: Path) -> None:
    loaded = load(bundle)
    assert 0 <= loaded.self_test_deviation < 1e-3
    assert loaded.model.facts.sha256 == hashlib.sha256(brightness_graph()).hexdigest()


def test_a_missing_bundle_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such bundle; give the path"):
        resolve(str(tmp_path / "nowhere.pipeline"))


def test_writing_refuses_what_could_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a name"):
        brightness_bundle(tmp_path / "x", entries={"../x": b""})
    with pytest.raises(BundleError, match="does not fit"):
        brightness_bundle(tmp_path / "x", decision=DecisionRule(good=[5], threshold=0.5))
    assert list(tmp_path.iterdir()) == []
