"""The reference of the ports, from the syntax of agent/ports.py: what a new source or sink has to keep to."""

from __future__ import annotations

import ast
import re

import links

_HEAD = """\
# Ports

What the rooms of the agent ask of each other, from `agent/ports.py`. A new source or a new sink is one file that keeps
to one of these: [how](../repository/CONTRIBUTING.md#a-new-source).

"""


def page() -> str:
    """The module's own words, then each class."""
    text = (links.ROOT / "agent" / "ports.py").read_text(encoding="utf-8")
    module = ast.parse(text)
    classes = [node for node in module.body if isinstance(node, ast.ClassDef)]
    return f"{_HEAD}```text\n{ast.get_docstring(module)}\n```\n\n" + "".join(_class(node, text) for node in classes)


def _class(node: ast.ClassDef, text: str) -> str:
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    kind = f" ({bases})" if bases else ""
    parts = [f"## {node.name}{kind} {{ #{node.name.lower()} }}\n\n{_words(ast.get_docstring(node))}\n\n"]
    fields = [one for one in node.body if isinstance(one, ast.AnnAssign)]
    if fields:
        lines = text.splitlines()
        told = (re.sub(r"\s+#:?\s*", "  # ", lines[one.lineno - 1].strip()) for one in fields)
        parts.append("```python\n" + "\n".join(told) + "\n```\n\n")
    for method in node.body:
        if isinstance(method, ast.FunctionDef):
            returns = f" -> {ast.unparse(method.returns)}" if method.returns else ""
            line = f"{method.name}({ast.unparse(method.args)}){returns}"
            parts.append(f"### `{method.name}` {{ #{node.name.lower()}-{method.name.strip('_')} }}\n\n")
            parts.append(f"```python\n{line}\n```\n\n{_words(ast.get_docstring(method))}\n\n")
    return "".join(parts)


def _words(docstring: str | None) -> str:
    """A docstring as Markdown: ``code`` in double backticks is understood there, too."""
    return (docstring or "").replace("<", "&lt;")
