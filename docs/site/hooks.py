"""What MkDocs calls while it builds the site (`make docs`). See mkdocs.yml.

The pages of ``docs/`` are read as a forge shows them; this adds what they cannot hold themselves:

    reference/…     pages generated from the code, so that they cannot be wrong       configuration.py, commands.py, …
    repository/…    pages and files outside of ``docs/`` that a page links to         links.py
    a paragraph that is only a link to a file of the same folder: that file, shown    links.py

Nothing generated is written into ``docs/``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import commands
import components
import configuration
import links
import ports
import schemas
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

GENERATED = {
    "reference/configuration.md": configuration.page,
    "reference/configuration.schema.json": configuration.schema,
    "reference/example.md": configuration.example,
    "reference/commands.md": commands.page,
    "reference/schemas.md": schemas.page,
    "reference/ports.md": ports.page,
    "reference/components.md": components.page,
    components.FILE: components.document,
}


def on_config(config: MkDocsConfig) -> None:
    """The decisions into the navigation; ``mkdocs serve`` builds anew when code changes that pages are made from."""
    config.watch.extend(str(links.ROOT / name) for name in ("agent", "training", "config"))
    for section in config.nav or ():
        for entry in section.get("Develop", ()):
            if "Decisions" in entry:
                entry["Decisions"] += links.decisions()


_SHORT = 26  #: characters, escapes counted in full: fits a phone's line


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages that are generated, and all that pages link to outside of ``docs/``."""
    for uri, make in GENERATED.items():
        files.append(File.generated(config, uri, content=make()))
    pages = [Path(str(one.abs_src_path)) for one in files.documentation_pages() if one.abs_src_path]
    for path in {*links.outside(pages), *schemas.FILES}:
        files.append(File.generated(config, links.uri_of(path), abs_src_path=str(path)))


def on_page_content(html: str, **_: Any) -> str:
    """Mark short code in the text, an option or a key, which assets/extra.css keeps in one line: else a browser parts
    ``--json`` after its dashes. What is longer must be able to break, on a phone at least.
    """
    return re.sub(rf"<code>([^<\n]{{1,{_SHORT}}})</code>", r'<code class="ww-short">\1</code>', html)


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Show the files that are to be shown, and point links to where things are on the site."""
    uri = page.file.src_uri
    if uri == "index.md":
        page.meta["hide"] = ["navigation"]
    if uri in GENERATED:
        return markdown
    origin = links.origin_of(uri)
    return links.pointed(links.shown(markdown, origin), origin, uri)
