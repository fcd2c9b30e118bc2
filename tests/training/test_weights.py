"""A bundle names the weights it started from by what the file is, never by what it is called."""

from __future__ import annotations

import hashlib
import html
from pathlib import Path

import pytest

from agent.bundle.archive import Archive
from agent.errors import UsageError
from training import weights
from training.recipe import Model

NAME = "mobilenet_2_5_128_tf_no_top.h5"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / NAME
    path.write_bytes(b"some weights")
    return path


def test_a_name_proves_nothing(file: Path) -> None:
    with pytest.raises(UsageError, match="of unknown origin") as caught:
        weights.origin(Model(weights=str(file)))
    assert "--weights-origin TEXT --weights-licence TEXT" in str(caught.value)
    with pytest.raises(UsageError, match="of unknown origin"):
        weights.origin(Model(weights=str(file), weights_origin="made here"))


def test_a_digest_does(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = hashlib.sha256(b"some weights").hexdigest()
    monkeypatch.setitem(weights._KNOWN, digest, weights._Source("known from a test", "MIT"))
    found = weights.origin(Model(weights=str(file)))
    assert (found.name, found.origin, found.licence, found.sha256) == (NAME, "known from a test", "MIT", digest)
    renamed = file.rename(file.with_name("anything.h5"))
    assert weights.origin(Model(weights=str(renamed))).origin == "known from a test"


def test_the_recipes_own_words_win(file: Path) -> None:
    found = weights.origin(Model(weights=str(file), weights_origin="made here", weights_licence="CC0-1.0"))
    assert (found.origin, found.licence) == ("made here", "CC0-1.0")
    assert found.sha256 == hashlib.sha256(b"some weights").hexdigest()


def test_a_file_that_is_not_there_is_said_first(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        weights.origin(Model(weights=str(tmp_path / NAME)))


def test_what_keras_finds_by_name_has_a_digest_too(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(file.parent))
    model = Model(alpha=0.25, weights="imagenet")
    assert weights.origin(model).sha256 is None
    (file.parent / "models").mkdir()
    file.rename(file.parent / "models" / NAME)
    digest = hashlib.sha256(b"some weights").hexdigest()
    assert weights.origin(model).sha256 == digest
    monkeypatch.setitem(weights._KNOWN, digest, weights._Source("known from a test", "MIT"))
    assert weights.origin(model).origin == "known from a test"


def test_the_shipped_bundle_names_what_it_started_from() -> None:
    (path,) = (Path(__file__).parents[2] / "agent" / "demo").glob("*.pipeline")
    with Archive(path) as archive:
        found = archive.manifest.training.weights
        page = archive.read("report/report.html").decode()
    known = weights._KNOWN[found.sha256 or ""]
    assert (found.origin, found.licence) == (known.origin, known.licence)
    assert html.escape(known.origin) in page
