"""The documentation as a site: built strictly, whole, and at home where there is no network."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import jsonschema
import pytest
import yaml

from locks import reading, sbom
from tests.docs.pages import ROOT
from tests.docs.test_docs import FIELDS

LOADING = {
    ("script", "src"),
    ("link", "href"),
    ("img", "src"),
    ("iframe", "src"),
    ("source", "src"),
    ("form", "action"),
}


@dataclass
class Html(HTMLParser):
    """What a page leads to, what it loads, and which places it has."""

    links: set[str] = field(default_factory=set)
    loads: set[str] = field(default_factory=set)
    ids: set[str] = field(default_factory=set)
    words: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and name in ("id", "name"):
                self.ids.add(value)
            if value and (tag, name) in LOADING:
                self.loads.add(value)
            elif value and name == "href":
                self.links.add(value)

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `make docs` builds it; a warning is an error."""
    there = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(there)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return there


@pytest.fixture(scope="session")
def pages(site: Path) -> dict[Path, Html]:
    found = {}
    for path in site.rglob("*.html"):
        found[path] = Html()
        found[path].feed(path.read_text(encoding="utf-8"))
    return found


def words(pages: dict[Path, Html], site: Path, name: str) -> str:
    return "".join(pages[site / name].words)


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Html]) -> None:
    """A plant has no internet: no font, script, style or picture comes from there."""
    for path, page in pages.items():
        away = {one for one in page.loads if urlsplit(one).scheme or one.startswith("//")}
        assert away == set(), path.relative_to(site)
    for style in site.rglob("*.css"):
        for target in re.findall(r"url\(([^)]*)\)", style.read_text(encoding="utf-8")):
            assert not re.match(r"[\"']?(https?:)?//", target), f"{style.name}: {target}"


def test_all_that_pages_lead_to_is_there(site: Path, pages: dict[Path, Html]) -> None:
    for path, page in pages.items():
        if path.name == "404.html":  # its addresses count from the root of a server
            continue
        for link in page.links | page.loads:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert there.is_file(), f"{path.relative_to(site)}: {link}"
            if parts.fragment and there in pages:
                assert unquote(parts.fragment) in pages[there].ids, f"{path.relative_to(site)}: {link}"


def test_no_page_names_the_machine_it_was_built_on(site: Path) -> None:
    for path in site.rglob("*"):
        if path.suffix in (".html", ".json", ".js"):
            assert str(ROOT) not in path.read_text(encoding="utf-8"), path.relative_to(site)


def test_search_finds_codes_and_keys(site: Path) -> None:
    """Also in pages that were opened from a folder: there the index is a script."""
    text = (site / "search" / "search_index.js").read_text(encoding="utf-8")
    index = json.loads(text.removeprefix("var __index = "))
    for word in ("camera_stalled", "keepalive_s", "identity_unknown", "result_id"):
        assert any(word in one["text"] for one in index["docs"]), word
    start = (site / "index.html").read_text(encoding="utf-8")
    assert "assets/iframe-worker.js" in start


def test_every_key_is_in_the_reference(site: Path, pages: dict[Path, Html]) -> None:
    told = words(pages, site, "reference/configuration.html")
    for key, default in FIELDS:
        name = key.rpartition(".")[2]
        assert re.search(rf"^{name}$", told, re.MULTILINE), key
        assert default.strip("`") in told or default == "see below", (key, default)


def test_the_example_meets_the_schema_for_editors(site: Path) -> None:
    schema = json.loads((site / "reference" / "configuration.schema.json").read_text(encoding="utf-8"))
    example = yaml.safe_load((ROOT / "config" / "agent.example.yaml").read_text(encoding="utf-8"))
    jsonschema.validate(example, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**example, "sorces": []}, schema)


def test_every_command_is_in_the_reference(site: Path, pages: dict[Path, Html]) -> None:
    told = words(pages, site, "reference/commands.html")
    for command in ("weldwatch run", "weldwatch bundle install", "weldwatch-train evaluate"):
        assert command in told
    for option in ("--once", "--seen-too"):
        assert option in told


def test_every_field_of_a_result_is_in_the_reference(site: Path, pages: dict[Path, Html]) -> None:
    told = words(pages, site, "reference/schemas.html")
    for name in ("result_id", "image.sha256", "reasons[].code", "timing_ms.total", "decision.threshold"):
        assert name in told, name


def test_the_ports_are_in_the_reference(site: Path, pages: dict[Path, Html]) -> None:
    told = words(pages, site, "reference/ports.html")
    for name in ("Source", "Sink", "deliver(self, batch: Sequence[Stored]) -> int"):
        assert name in told, name


def test_every_package_of_a_station_is_told_with_its_licence(site: Path, pages: dict[Path, Html]) -> None:
    told = words(pages, site, "reference/components.html")
    for one in reading.read("demo", sbom.python_here()):
        assert one.name in told
    assert "not installed here" not in told
    assert json.loads((site / "reference" / "components.cdx.json").read_text(encoding="utf-8")) == sbom.bill()


def test_an_option_is_not_parted_and_a_command_not_cut(site: Path) -> None:
    """The page marks what the style sheet keeps whole, or lets go on in the next line."""
    page, css = (site / "commands.html").read_text(encoding="utf-8"), (site / "assets" / "extra.css").read_text()
    assert '<code class="ww-short">--config FILE</code>' in page
    assert '<code>{"ok": true' in page.replace("&quot;", '"')
    assert '<div class="language-console highlight">' in page
    assert ".ww-short {\n  white-space: nowrap;" in css
    assert re.search(r"\.language-console, [^{]*\{[^}]*white-space: pre-wrap", css)


def test_what_a_command_takes_has_room_on_its_page(site: Path) -> None:
    page = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    blocks = re.findall(r"<pre>.*?</pre>", page, re.DOTALL)
    lines = [re.sub(r"<[^>]+>", "", line) for block in blocks for line in block.splitlines()]
    assert len(lines) > 100
    assert [line for line in lines if len(unescape(line)) > 80] == []
