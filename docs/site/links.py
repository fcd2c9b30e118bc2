"""Where a file of the repository is on the site, and the links of a page pointed there.

Invariant: a page's links are those of the repository, so that a forge shows them right; only here do they change. A
link that leads nowhere is left as it is, and the strict build fails on it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
OUTSIDE = "repository"
#: Places of the repository that have a page of another kind on the site.
ELSEWHERE = {
    ROOT / "README.md": "index.md",
    ROOT / "config/schemas": "reference/schemas.md",
}
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:)([^)#\s]*)(#[^)\s]*)?(?=\))")
_SHOWN = re.compile(r"^\[[^\]\n]+\]\(([\w.-]+\.(py|jq|json|toml|sh))\)$", re.MULTILINE)
_LANGUAGE = {"py": "python", "sh": "bash"}


def uri_of(path: Path) -> str:
    """The name on the site of a file, or of a folder with a README."""
    if path in ELSEWHERE:
        return ELSEWHERE[path]
    path = path / "README.md" if path.is_dir() else path
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    return f"{OUTSIDE}/{path.relative_to(ROOT).as_posix()}"


def origin_of(uri: str) -> Path:
    """The file that a page of the site was read from."""
    inside = uri.removeprefix(f"{OUTSIDE}/")
    return DOCS / uri if inside == uri else ROOT / inside


def outside(pages: Iterable[Path]) -> list[Path]:
    """Every file outside of ``docs/`` that a page links to, directly or by a page that is itself outside."""
    found: dict[Path, None] = {}
    waiting = list(pages)
    while waiting:
        page = waiting.pop()
        for target, _anchor in _LINK.findall(page.read_text(encoding="utf-8")):
            path = _there(page, target)
            path = path / "README.md" if path.is_dir() else path
            if path.is_file() and not path.is_relative_to(DOCS) and path not in ELSEWHERE and path not in found:
                found[path] = None
                waiting += [path] if path.suffix == ".md" else []
    return list(found)


def decisions() -> list[str]:
    """The pages of decisions, in the order of their index."""
    text = (DOCS / "decisions" / "README.md").read_text(encoding="utf-8")
    return [f"decisions/{target}" for target, _anchor in _LINK.findall(text) if re.fullmatch(r"[\w-]+\.md", target)]


def pointed(markdown: str, origin: Path, uri: str) -> str:
    """``markdown`` with each link to a file of the repository pointed to its place on the site, seen from ``uri``."""

    def there(link: re.Match[str]) -> str:
        path = _there(origin, link[1])
        if not link[1] or not path.is_relative_to(ROOT) or not path.exists():
            return link[0]
        return os.path.relpath(uri_of(path), Path(uri).parent.as_posix()) + (link[2] or "")

    return _prose(markdown, lambda text: _LINK.sub(there, text))


def shown(markdown: str, origin: Path) -> str:
    """``markdown`` with each paragraph that is only a link to a file beside the page replaced by the file itself."""

    def block(link: re.Match[str]) -> str:
        text = (origin.parent / link[1]).read_text(encoding="utf-8").rstrip()
        fence = f'```{_LANGUAGE.get(link[2], link[2])} title="{link[1]}"\n{text}\n```'
        return f"{fence}\n\n[Download {link[1]}]({link[1]}){{ download }}"

    return _prose(markdown, lambda text: _SHOWN.sub(block, text))


def _there(page: Path, target: str) -> Path:
    return (page.parent / target).resolve()


def _prose(markdown: str, change: Callable[[str], str]) -> str:
    """Change what stands outside of fenced blocks."""
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if at % 2 else change(part) for at, part in enumerate(parts))
