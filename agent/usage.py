"""The command line as people mistype it: one line that says what, where and what to do, and exit code 2.

argparse prints a block of usage and then words such as ``invalid choice``. Here the line names the command, what was
found, what it may have been meant for, and where help is:

    weldwatch: no command 'chek'; did you mean check? See weldwatch --help
    weldwatch log: no option --sinse; did you mean --since? See weldwatch log --help

Invariants: a usage error is one line on stderr, free of control characters; an unknown option is told before a missing
one, for it may be the same; help fits the terminal, and 80 columns where there is none.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from agent.logs import printable

#: argparse's words, and ours. The last one stands for every complaint of a value.
_WORDS = tuple(
    (re.compile(theirs, re.DOTALL), ours)
    for theirs, ours in (
        (r"argument (.+?): expected .*arguments?", "{0}: no value; give {1}"),
        (r"argument (.+?): invalid \S+ value: (.*)", "{0}: found {1}; give a number"),
        (r"argument (.+?): not allowed with argument (.+)", "{0} and {1}: use one or the other"),
        (r"argument (.+?): ignored explicit argument (.+)", "{0}: takes no value; found {1}"),
        (r"the following arguments are required: (.+)", "missing: {0}"),
        (r"one of the arguments (.+) is required", "missing: one of {0}"),
        (r"ambiguous option: (.+) could match (.+)", "{0}: may be {1}; write it out"),
        (r"argument (.+?): (.*)", "{0}: {1}"),
    )
)


class Help(argparse.HelpFormatter):
    """Wraps a description; leaves what has lines of its own, such as examples, as it is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text:
            return "".join(indent + line for line in text.splitlines(keepends=True))
        return super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that speaks as the rest of weldwatch does; so do the parsers of its commands."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", Help)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        """End with exit code 2 and one line on stderr."""
        said = " ".join(printable(self._in_our_words(message).replace("\n", " ")).split())
        see = " See" if said.endswith("?") else "; see"
        self.exit(2, f"{self.prog}: {said}{see} {self.prog} --help\n")

    def parse_known_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse; nothing stays unknown, so that it is this command that refuses it and not the one above."""
        given = sys.argv[1:] if args is None else list(args)
        if not {"-h", "--help"} & set(given):
            self._refuse_unknown(given)
        found, left = super().parse_known_args(given, namespace)
        if left:
            self.error(f"{left[0]!r} is one too many{self._meant(left[0], self._options())}")
        return found, left

    # -- what may have been meant ------------------------------------------------------------------------------------

    def _refuse_unknown(self, given: Sequence[str]) -> None:
        commands = self._commands()
        for word in given:
            if word == "--" or (commands and not word.startswith("-")):
                return
            name = word.partition("=")[0]
            if not name.startswith("--") or " " in name or any(one.startswith(name) for one in self._options()):
                continue
            having = [command for command, parser in commands.items() if name in parser._options()]
            if having:
                self.error(f"{name}: goes behind a command: {self.prog} {having[0]} {name}")
            self.error(f"no option {name}{self._meant(name, [*self._options(), *commands])}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """argparse's own place for what is not among the choices."""
        if action.choices is None or value in action.choices:
            return
        allowed = [str(choice) for choice in action.choices]
        if action.option_strings:
            told = self._meant(str(value), allowed) or f"; allowed: {', '.join(allowed)}"
            self.error(f"{'/'.join(action.option_strings)}: found {str(value)!r}{told}")
        kind = str(action.metavar or "command").lower()
        verbs = {f"{name} {verb}": verb for name, parser in self._commands().items() for verb in parser._commands()}
        deeper = [whole for whole, verb in verbs.items() if verb == value]
        told = f"; did you mean {' or '.join(deeper)}?" if deeper else self._meant(str(value), allowed)
        self.error(f"no {kind} {str(value)!r}{told or '; there are ' + ', '.join(allowed)}")

    @staticmethod
    def _meant(word: str, known: Iterable[str]) -> str:
        """``; did you mean …?``, whatever is small or large and dashed or not; or nothing."""
        plain = {one.lstrip("-").lower(): one for one in known}
        near = difflib.get_close_matches(word.lstrip("-").lower(), plain, 1)
        return f"; did you mean {plain[near[0]]}?" if near else ""

    def _options(self) -> list[str]:
        return [name for action in self._actions for name in action.option_strings]

    def _commands(self) -> dict[str, Parser]:
        """The commands or verbs below this one."""
        below = (action.choices for action in self._actions if isinstance(action, argparse._SubParsersAction))
        return dict(next(below, {}))

    def _in_our_words(self, message: str) -> str:
        for theirs, ours in _WORDS:
            if found := theirs.fullmatch(message):
                said = list(found.groups())
                if len(said) == 1:  # whose value is missing is written out
                    said.append(self._written(said[0]))
                return ours.format(*said)
        return message

    def _written(self, name: str) -> str:
        """An option as help writes it: ``--since T``."""
        action = self._option_string_actions.get(name.partition("/")[0])
        if action is None:
            return name
        return f"{name} {action.metavar or ('{' + ','.join(map(str, action.choices)) + '}' if action.choices else '…')}"


def examples(*commands: str, then: str) -> str:
    """The end of a help page: commands to copy, and the next step."""
    following = textwrap.fill(f"next: {then}", 78, break_on_hyphens=False, break_long_words=False)
    return "\n".join(["examples:", *(f"  {command}" for command in commands), "", following, ""])


def number(
    kind: type[int] | type[float], low: float, high: float | None = None, what: str = ""
) -> Callable[[str], int | float]:
    """An argument's type: a whole or any number (``what`` says of what) from ``low`` on, or up to ``high``."""
    what = what or ("a whole number" if kind is int else "a number")
    allowed = f"{what} from {low:g} to {high:g}" if high is not None else f"{what}, which must be at least {low:g}"

    def of(text: str) -> int | float:
        try:
            if low <= (value := kind(text)) <= (1e9 if high is None else high):
                return value
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"found {text!r}; {allowed}")

    return of
