"""The documentation as data: pages, fenced blocks, commands, tables, headings and links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "systemd/README.md", "deploy/README.md")]
    + list((ROOT / "docs").rglob("*.md"))
)
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def text_of(page: Path | str) -> str:
    """A page by path, or by its name below ``docs``."""
    return (ROOT / "docs" / page).read_text(encoding="utf-8")


def blocks(page: Path | str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return [body for name, body in _BLOCK.findall(text_of(page)) if name == language]


@dataclass(frozen=True)
class Command:
    """A line of a console block that begins with ``$``."""

    page: str
    line: str

    def __str__(self) -> str:
        return f"{self.page}: {self.line}"


def commands() -> list[Command]:
    """All commands of all pages, each once a page."""
    found = (
        Command(page.relative_to(ROOT).as_posix(), line[2:].strip())
        for page in PAGES
        for block in blocks(page, "console")
        for line in block.splitlines()
        if line.startswith("$ ")
    )
    return list(dict.fromkeys(found))


def section(page: Path | str, heading: str) -> str:
    """From a heading to the next of any level."""
    text = text_of(page)
    start = re.search(rf"^#+ {re.escape(heading)}$", text, re.MULTILINE)
    assert start, f"{page} has no heading {heading!r}"
    return re.split(r"^#+ ", text[start.end() :], maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> Iterator[list[str]]:
    """Table rows as cells, without header and rule."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    for at, line in enumerate(lines):
        is_rule = set(line) <= set("|- ")
        is_header = at + 1 < len(lines) and set(lines[at + 1]) <= set("|- ")
        if not is_rule and not is_header:
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def codes(text: str) -> set[str]:
    """What stands in backticks in the first column of the tables."""
    return {code for row in rows(text) for code in re.findall(r"`([^`]+)`", row[0])}


def prose(page: Path) -> str:
    """A page without its blocks and without code in lines."""
    return re.sub(r"`[^`\n]*`", "", _BLOCK.sub("", page.read_text(encoding="utf-8")))


def anchors(page: Path) -> set[str]:
    """The anchors that a forge gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", _BLOCK.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}
