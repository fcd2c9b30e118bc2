"""What the agent's source can say to the outside, read from its syntax: reason codes, problem codes, counters.

A part that is only known at run time (a source's name) is a ``*``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from tests.docs.pages import ROOT


def _modules() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((ROOT / "agent").rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def _calls(module: ast.Module, *names: str) -> Iterator[ast.Call]:
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and node.args and _last(node.func) in names:
            yield node


def _last(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _assignments(module: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Each name that is given a value, also side by side: ``A, B = "a", "b"``."""
    for node in ast.walk(module):
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                yield from zip(map(_last, target.elts), node.value.elts, strict=False)
            else:
                yield _last(target), node.value


def _imported(module: ast.Module) -> Iterator[ast.Module]:
    """The agent's modules that ``from … import …`` names, or takes something from."""
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("agent"):
            place = ROOT.joinpath(*str(node.module).split("."))
            for file in (place.with_suffix(".py"), *(place / f"{one.name}.py" for one in node.names)):
                if file.is_file():
                    yield ast.parse(file.read_text(encoding="utf-8"))


def _pattern(node: ast.expr, module: ast.Module, where: str) -> str:
    """A constant, an f-string, or a name that is given one of these in the module or in one that it imports from."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values)
    for known in (module, *_imported(module)):
        for name, value in _assignments(known):
            if name and name == _last(node):
                return _pattern(value, known, where)
    raise AssertionError(f"{where}: the code {ast.unparse(node)} cannot be read from the source")


def reason_codes() -> set[str]:
    """Every ``code`` that a reason of a result can have."""
    found = set()
    for _path, module in _modules():
        for call in _calls(module, "Reason", "ImageError", "TruncatedImageError"):
            if ast.unparse(call.args[0]) != "problem.code":  # handed on from an ImageError, which was met already
                found.add(_pattern(call.args[0], module, ast.unparse(call)))
    return found


def problem_codes() -> set[str]:
    """Every problem that can stand on status."""
    return {
        _pattern(call.args[0], module, str(path))
        for path, module in _modules()
        if path.name != "health.py"
        for call in _calls(module, "raise_problem")
    }


def log_codes() -> set[str]:
    """What every WARNING and ERROR of the log leads with, after the source where there is one."""
    found = set()
    for path, module in _modules():
        for call in _calls(module, "warning", "error", "exception"):
            if not isinstance(call.func, ast.Attribute) or _last(call.func.value).lower() != "_log":
                continue
            where = f"{path.relative_to(ROOT)}:{call.lineno}"
            template, arguments = _pattern(call.args[0], module, where), call.args[1:]
            if template.startswith("source %s: "):
                template, arguments = template.removeprefix("source %s: "), arguments[1:]
            if template.startswith("%s: "):
                template = f"{_pattern(arguments[0], module, where)}: "
            code = re.match(r"([a-z*][a-z_*]*)(:\S+)?: ", template)
            assert code, f"{where}: {template!r} does not begin with a code that operations.md could explain"
            found.add(code[1])
    return found


def counters() -> set[str]:
    """Every counter of health."""
    return {
        _pattern(call.args[0], module, str(path))
        for path, module in _modules()
        for call in _calls(module, "count")
        if isinstance(call.func, ast.Attribute) and _last(call.func.value) in ("health", "_health")
    }


def unmatched(patterns: set[str], documented: set[str]) -> tuple[set[str], set[str]]:
    """Patterns that nothing documents, and documented codes that no pattern gives."""
    return (
        {pattern for pattern in patterns if not any(fnmatchcase(code, pattern) for code in documented)},
        {code for code in documented if not any(fnmatchcase(code, pattern) for pattern in patterns)},
    )
