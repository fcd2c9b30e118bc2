"""The reference of the command line, from the parsers themselves."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from tables import code, table

import agent.cli.main
import training.parser

_HEAD = """\
# Every command

Made from the parsers themselves: what `--help` says. How to use them is told in [Commands](../commands.md).

"""
_WIDTH = 80  #: what a page has room for beside its two columns of links
_Command = tuple[argparse.ArgumentParser, int, str]  #: with the level of its heading, and what its parent says of it


def page() -> str:
    """Both programs, each command a section."""
    return _HEAD + "".join(
        _section(parser, level, summary)
        for top in (agent.cli.main.parser(), training.parser.parser())
        for parser, level, summary in _walk(top, 2, "")
    )


def _walk(parser: argparse.ArgumentParser, level: int, summary: str) -> Iterator[_Command]:
    """Each command, the ones that it consists of after it."""
    yield parser, level, summary
    for action in _commands(parser):
        told = {choice.dest: choice.help or "" for choice in action._choices_actions}
        for name, below in action.choices.items():
            yield from _walk(below, min(level + 1, 4), told.get(name, ""))


def _commands(parser: argparse.ArgumentParser) -> list[argparse._SubParsersAction[argparse.ArgumentParser]]:
    return [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]


def _section(parser: argparse.ArgumentParser, level: int, summary: str) -> str:
    usage = argparse.HelpFormatter(parser.prog, width=_WIDTH)
    usage.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups, "")
    parts = [f"{'#' * level} {parser.prog}\n\n"]
    if about := _plain(parser.description or summary):
        parts.append(f"{about}\n\n")
    parts.append(f"```text\n{usage.format_help().strip()}\n```\n\n")
    rows = [
        [_name(action), _default(action), _plain(_help(parser, action))]
        for action in parser._actions
        if not isinstance(action, (argparse._SubParsersAction, argparse._HelpAction))
    ]
    if rows:
        parts.append(table(["argument", "default", "does"], rows) + "\n")
    if parser.epilog:
        parts.append(f"```text\n{parser.epilog.strip()}\n```\n\n")
    return "".join(parts)


def _name(action: argparse.Action) -> str:
    values = action.metavar or (",".join(map(str, action.choices)) if action.choices else action.dest.upper())
    values = values if isinstance(values, str) else " ".join(values)
    if not action.option_strings:
        return code(values)
    return code(", ".join(action.option_strings) + ("" if action.nargs == 0 else f" {values}"))


def _default(action: argparse.Action) -> str:
    if action.required:
        return "required"
    if action.default in (None, False, argparse.SUPPRESS) or action.nargs == 0:
        return ""
    return code(action.default)


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    return argparse.HelpFormatter(parser.prog)._expand_help(action) if action.help else ""


def _plain(text: str) -> str:
    """Words of a terminal as words of a page."""
    return " ".join(text.split()).replace("<", "&lt;").replace("*", r"\*").replace("_", r"\_")
