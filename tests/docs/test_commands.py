"""Each command of the documentation runs, as it stands there."""

from __future__ import annotations

import ast
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from agent.cli.main import parser
from tests.docs.conftest import BIN, Place
from tests.docs.pages import ROOT, Command, blocks, codes, commands, section
from tests.support.station import until

COMMANDS = commands()
#: CI runs these themselves, each in a run of its own; here: that there is such a target.
MAKE = {"demo", "test", "check", "training", "demo-bundle"}
TRAININGS = ["tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime", "sklearn", "matplotlib", "rich"]
AGENTS = [*TRAININGS, "numpy", "PIL", "paho", "iotcore", "sqlite3", "yaml", "msgspec"]


def those(*words: str) -> list[Any]:
    """The commands that begin with one of these words, by themselves or in ``.venv/bin``."""
    found = [one for one in COMMANDS if one.line.removeprefix(".venv/bin/").startswith(words)]
    return [pytest.param(one, id=str(one)) for one in found]


def is_agent(one: Command) -> bool:
    return bool(re.match(r"(\.venv/bin/)?weldwatch run (?!.*--once)", one.line))


WATCHING = ("mosquitto_sub ",)
TOOLS = ("weldwatch ", "cat ", "python3 -")
CONSUMERS = ("python3 never_miss", "bash never_miss", "BROKER=")
OTHERS = ("weldwatch-train ", "pytest ", "ruff ", "make ", "sudo ")
DEPLOY = ("deploy/", "docker ", "GRAFANA_PASSWORD=")


def test_every_command_has_its_test() -> None:
    told = {str(param.values[0]) for param in those(*WATCHING, *TOOLS, *CONSUMERS, *OTHERS, *DEPLOY)}
    assert {str(one) for one in COMMANDS} == told
    assert len(COMMANDS) >= 25


@pytest.mark.parametrize("one", those("make "))
def test_make_targets_exist(one: Command) -> None:
    target = one.line.split()[1]
    assert target in MAKE
    assert target in re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("one", those("sudo ", *DEPLOY))
def test_commands_for_the_machine_name_files_and_options_that_exist(one: Command) -> None:
    """They need root and a machine to change, which these tests have not: tests/deploy has one."""
    for word in one.line.split():
        if re.match(r"(config|systemd|locks|deploy)/", word):
            path = re.sub(r"\$\(.*", "3.11.txt", word)
            assert (ROOT / path).is_file(), path
    script = re.search(r"([a-z-]+\.sh)\b", one.line)
    if script:
        told = subprocess.run(
            [ROOT / "deploy" / script[1], "--help"], capture_output=True, text=True, check=True
        ).stdout
        for option in re.findall(r"--[a-z-]+", one.line.partition(script[1])[2]):
            assert option in told, f"{script[1]} has no {option}"


def settings_of(unit: str) -> list[tuple[str, str]]:
    lines = (ROOT / "systemd" / unit).read_text(encoding="utf-8").splitlines()
    return [(line.split("=", 1)[0], line.split("=", 1)[1]) for line in lines if re.match(r"[A-Z]\w+=", line)]


def test_the_unit_starts_what_is_installed() -> None:
    settings = dict(settings_of("weldwatch.service"))
    program, *arguments = settings["ExecStart"].split()
    by_hand = section("install.md", "By hand")
    assert program == "/opt/weldwatch/current/bin/weldwatch"
    assert "python3 -m venv /opt/weldwatch/current\n" in by_hand
    options = parser().parse_args(arguments)
    assert f"config/agent.example.yaml {options.config}\n" in by_hand
    assert f"useradd --system --user-group --home-dir /var/lib/{settings['StateDirectory']} " in by_hand
    assert float(settings["TimeoutStopSec"]) > 3 * 5  # sources, inspector and shippers have 5 s each


def test_the_template_is_the_unit_under_other_names() -> None:
    other = {"%i.yaml": "agent.yaml", "weldwatch/%i": "weldwatch", "weld camera station %i": "a weld camera station"}
    for (key, template), (wanted_key, wanted) in zip(
        settings_of("weldwatch@.service"), settings_of("weldwatch.service"), strict=True
    ):
        for name, plain in other.items():
            template = template.replace(name, plain)
        assert (key, template.replace("the a weld", "a weld")) == (wanted_key, wanted)


@pytest.mark.parametrize("one", [one for one in those(*TOOLS) if not is_agent(one.values[0])])
def test_it_runs(one: Command, place: Place) -> None:
    done = place.run(one.line)
    assert done.returncode == 0, done.stderr
    told = done.stdout
    if redirected := re.search(r"> (\S+)$", one.line):
        told = (place.root / redirected[1]).read_text(encoding="utf-8")
    if "FROM dead" not in one.line:  # a sound station has none
        assert told.strip(), "it says nothing"


@pytest.mark.parametrize("one", [one for one in those("weldwatch ") if is_agent(one.values[0])])
def test_the_agent_runs_until_it_is_stopped(one: Command, place: Place) -> None:
    process = place.start(f"exec {one.line} 2> agent-here.log")
    try:
        log = place.root / "agent-here.log"
        until(lambda: process.poll() is not None or (log.exists() and " watches " in log.read_text()), "the agent")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


class TestALineThatRuns:
    """With the agent running as long as these take: no other may have its state and its client id meanwhile."""

    def test_what_is_on_the_topics(self, line_running: Place) -> None:
        """All subscribers of the page at once: each hears something, and it is what the page says."""
        place = line_running
        ends = f" -p {place.port} -C 1 -W 30"
        listening = {one.values[0].line: place.start(one.values[0].line + ends) for one in those(*WATCHING)}
        heard: dict[str, dict[str, Any]] = {}
        for line, process in listening.items():
            out, err = process.communicate(timeout=40)
            assert process.returncode == 0, f"{line}: {err}"
            heard[line.rstrip("'").rpartition("/")[2]] = json.loads(out[out.index("{") :])
        assert heard.keys() == {"status", "result", "health"}
        for name in ("status", "result"):
            schema = json.loads((ROOT / "config" / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8"))
            jsonschema.validate(heard[name], schema)
        for name, told in (("status", '"state": "online"'), ("health", '"counters"')):
            (shown,) = (json.loads(block) for block in blocks("topics.md", "json") if told in block)
            assert list(heard[name]) == list(shown)
        (shown,) = (json.loads(block) for block in blocks(ROOT / "README.md", "json"))
        assert list(heard["result"]) == list(shown)

    @pytest.mark.parametrize("text", blocks("results.md", "python"), ids=["disk"])
    def test_python_examples_run(self, text: str, line_running: Place) -> None:
        place = line_running
        script = place.root / "example.py"
        script.write_text(place.here(text).replace("1883", str(place.port)), encoding="utf-8")
        process = place.start(f"exec {sys.executable} -u example.py")
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert re.search(r"\b(OK|NotOK|NotDecidable)\b", line), process.stderr and process.stderr.read()
        finally:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("one", those(*CONSUMERS))
def test_the_examples_for_consumers_are_called_right(one: Command) -> None:
    """test_connect.py runs them, killed in mid-work. Here: that the page names the file, and a word that it knows."""
    name, verb = re.findall(r"(never_miss_a_part\.\w+) (\w+)", one.line)[0]
    text = (ROOT / "docs" / "connect" / name).read_text(encoding="utf-8")
    assert f" {verb} " in text
    assert one.page.startswith("docs/connect/")


@pytest.mark.parametrize("one", those("weldwatch-train "))
def test_training_commands_are_understood(one: Command, tmp_path: Path, place: Place) -> None:
    """The chain itself runs in tests/training. Here its own parser must take every word, and then miss the data."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    small = " --recordings 1 --frames 2 --size 64x64" if " synthesize " in one.line else ""
    done = subprocess.run(
        ["bash", "-c", one.line + small], cwd=tmp_path, env=place.environment, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 2), done.stderr
    assert "--help" not in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) <= 1, done.stderr


@pytest.mark.parametrize("one", those("pytest ", "ruff "))
def test_developers_commands_are_understood(one: Command, place: Place) -> None:
    line = one.line.replace(".venv/bin/", f"{BIN}/")
    line += " --collect-only -q -p no:cacheprovider" if "pytest" in line else ""
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


_HELP = """
import contextlib, io, sys
from {module} import main
said = []
for arguments in {commands}:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            code = main([*arguments, "--help"])
        except SystemExit as end:
            code = end.code
    said.append((arguments, code, len(out.getvalue())))
print((said, sorted(name for name in {heavy} if name in sys.modules)))
"""


def subcommands(module: str) -> list[str]:
    """As its own help lists them."""
    command = [sys.executable, "-m", module, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return re.findall(r"^    ([a-z]+)\b", done.stdout.partition("COMMAND\n")[2], re.MULTILINE)


@pytest.mark.parametrize(
    ("module", "heavy"), [("agent.cli.main", AGENTS), ("training.cli", TRAININGS)], ids=["weldwatch", "weldwatch-train"]
)
def test_help_teaches_and_loads_nothing_heavy(module: str, heavy: list[str]) -> None:
    names = subcommands(module)
    assert len(names) >= 4
    told = [[], *([name] for name in names)]
    code = _HELP.format(module=module, commands=told, heavy=heavy)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    said, loaded = ast.literal_eval(done.stdout)
    assert loaded == []
    assert [(arguments, code) for arguments, code, _ in said] == [(arguments, 0) for arguments in told]
    assert all(length > 200 for *_, length in said)


def test_the_commands_of_training_are_told() -> None:
    assert codes(section("commands.md", "weldwatch-train")) == set(subcommands("training.cli"))
