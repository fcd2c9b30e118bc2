"""What people mistype is answered in one line, with what they may have meant; both programs speak alike."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable, Iterator

import pytest

from agent.cli import main as agents
from agent.usage import Parser
from training import cli as trainings
from training import parser as trainings_parser

LOG, TRAIN, ALL = "weldwatch log", "weldwatch-train", "weldwatch-train all"


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("weldwatch chek", "weldwatch: no command 'chek'; did you mean check? See weldwatch --help"),
        ("weldwatch Demo", "weldwatch: no command 'Demo'; did you mean demo? See weldwatch --help"),
        ("weldwatch --check", "weldwatch: no option --check; did you mean check? See weldwatch --help"),
        ("weldwatch replay", "weldwatch: no command 'replay'; did you mean outbox replay? See weldwatch --help"),
        (
            "weldwatch --config a.yaml run",
            "weldwatch: --config: goes behind a command: weldwatch run --config; see weldwatch --help",
        ),
        (f"{LOG} --sinse 2h", f"{LOG}: no option --sinse; did you mean --since? See {LOG} --help"),
        (f"{LOG} --xyzzy=1", f"{LOG}: no option --xyzzy; see {LOG} --help"),
        (f"{LOG} follow", f"{LOG}: 'follow' is one too many; did you mean --follow? See {LOG} --help"),
        (f"{LOG} --since", f"{LOG}: --since: no value; give --since T; see {LOG} --help"),
        (f"{LOG} --json=yes", f"{LOG}: --json: takes no value; found 'yes'; see {LOG} --help"),
        (f"{LOG} --evaluation notok", f"{LOG}: --evaluation: found 'notok'; did you mean NotOK? See {LOG} --help"),
        (
            f"{LOG} --evaluation bad",
            f"{LOG}: --evaluation: found 'bad'; allowed: OK, NotOK, NotDecidable; see {LOG} --help",
        ),
        ("weldwatch predict", "weldwatch predict: missing: PATH; see weldwatch predict --help"),
        (
            "weldwatch bundle instal a.pipeline",
            "weldwatch bundle: no verb 'instal'; did you mean install? See weldwatch bundle --help",
        ),
        (
            "weldwatch bundle shadow",
            "weldwatch bundle shadow: missing: one of NAME-VERSION --off; see weldwatch bundle shadow --help",
        ),
        (
            "weldwatch demo --frames 0",
            "weldwatch demo: --frames: found '0'; a whole number, which must be at least 1; see weldwatch demo --help",
        ),
        (
            "weldwatch demo --mqtt-port 70000",
            "weldwatch demo: --mqtt-port: found '70000'; a whole number from 1 to 65535; see weldwatch demo --help",
        ),
        (
            "weldwatch run --watchdog never",
            "weldwatch run: --watchdog: found 'never'; a number of seconds from 1 to 3600; see weldwatch run --help",
        ),
        (f"{TRAIN} trian", f"{TRAIN}: no command 'trian'; did you mean train? See {TRAIN} --help"),
        (f"{ALL} --dta x --out y", f"{ALL}: no option --dta; did you mean --data? See {ALL} --help"),
        (f"{ALL} --recipe demo", f"{ALL}: missing: --data, --out; see {ALL} --help"),
        (
            f"{ALL} --data x --out y --train 0",
            f"{ALL}: --train: found '0'; a whole number, which must be at least 1; see {ALL} --help",
        ),
        (
            f"{ALL} --re x --data y",
            f"{ALL}: --re: may be --recipe, --resume; write it out; see {ALL} --help",
        ),
        (
            f"{ALL} --data x --out y --name a/b",
            f"{ALL}: --name: found 'a/b'; letters, digits, '.', '_' and '-', 64 at most; see {ALL} --help",
        ),
        (
            f"{ALL} --data x --out y --version 2",
            f"{ALL}: --version: found '2'; three numbers, such as 1.2.0; see {ALL} --help",
        ),
        (f"{LOG} --\x1b[31mred", f"{LOG}: no option --\\x1b[31mred; see {LOG} --help"),
    ],
    ids=lambda value: value if value.count(":") == 0 else "",
)  # fmt: skip
def test_what_is_mistyped_is_one_line_that_helps(typed: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    program, *arguments = typed.split()
    main: Callable[[list[str]], int] = {"weldwatch": agents.main, "weldwatch-train": trainings.main}[program]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    assert said.err == told + "\n"


def test_no_command_at_all_names_the_way_to_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        agents.main([])
    assert capsys.readouterr().err == "weldwatch: missing: COMMAND; see weldwatch --help\n"


def test_a_word_that_stands_for_its_option_and_help_beside_a_wrong_option_are_understood(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert agents.parser().parse_args(["log", "--eval", "OK"]).evaluation == "OK"
    assert agents.parser().parse_args(["predict", "--", "--odd name.png"]).paths[0].name == "--odd name.png"
    with pytest.raises(SystemExit, match="0"):
        agents.main(["log", "--sinse", "--help"])
    assert "usage: weldwatch log" in capsys.readouterr().out


def every(parser: Parser) -> Iterator[Parser]:
    """A program and each command and verb of it."""
    yield parser
    for below in parser._commands().values():
        yield from every(below)


TOPS: dict[str, Parser] = {"weldwatch": agents.parser(), "weldwatch-train": trainings_parser.parser()}
PAGES = [pytest.param(one, id=one.prog) for top in TOPS.values() for one in every(top)]


@pytest.mark.parametrize("page", PAGES)
def test_a_help_page_teaches(page: Parser, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it is for, examples that its own parser takes, defaults, the next step; 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    said = page.format_help()
    assert [line for line in said.splitlines() if len(line) > 80] == []
    assert len(page.description or "") > 40
    assert (page.description or "").endswith(".")
    examples = re.findall(
        rf"^  ({page.prog} [^|\n]*?)(?:  +[^-\s][^\n]*| [|>] [^\n]*)?$", page.epilog or "", re.MULTILINE
    )
    assert examples
    for example in examples:
        program, *arguments = shlex.split(example)
        TOPS[program].parse_args(arguments)
    if page not in TOPS.values():
        assert "\nnext: " in (page.epilog or "")
    for action in page._actions:
        assert action.help or page._commands(), action.dest
        if action.option_strings and action.nargs != 0 and action.default not in (None, False, argparse.SUPPRESS):
            assert "default" in (action.help or ""), action.option_strings
