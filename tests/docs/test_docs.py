"""What the documentation says is complete, leads somewhere, and is what the code does."""

from __future__ import annotations

import json
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import jsonschema
import msgspec
import pytest
import yaml

from agent import config
from agent.bundle.manifest import Manifest
from agent.cli.main import parser
from agent.errors import ConfigError
from agent.result import Result
from tests.docs import source
from tests.docs.pages import PAGES, ROOT, anchors, blocks, codes, prose, rows, section, text_of

EXAMPLE = (ROOT / "config" / "agent.example.yaml").read_text(encoding="utf-8")
SMALLEST = next(block for block in blocks("configuration.md", "yaml"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{target} leads nowhere"
        if anchor:
            assert anchor in anchors(there), f"{target}: no such heading"


@pytest.mark.parametrize("index", ["docs/index.md", "docs/connect/index.md", "docs/decisions/README.md"])
def test_every_page_is_in_an_index(index: str) -> None:
    page = ROOT / index
    linked = set(re.findall(r"\]\(([^)#\s]+)\)", page.read_text(encoding="utf-8")))
    missing = {one.name for one in page.parent.glob("*.md")} - linked - {page.name}
    assert missing == set(), f"not in {index}"


# --- configuration ---


def fields(kind: type[msgspec.Struct], path: str = "") -> Iterator[tuple[str, str]]:
    """Key path and default, as written, of every field of every section, as ``sources[].path``."""
    if kind.__struct_config__.tag_field:
        yield f"{path}{kind.__struct_config__.tag_field}", "required"
    hints = get_type_hints(kind)
    for field in msgspec.structs.fields(kind):
        default = field.default
        if field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        yield f"{path}{field.name}", "required" if field.required else written(default)
        a_list = any(get_origin(part) in (list, tuple) for part in _parts(hints[field.name]))
        for inner in _sections(hints[field.name]):
            yield from fields(inner, f"{path}{field.name}{'[]' if a_list else ''}.")


def _parts(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type that it is."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _sections(hint: Any) -> list[type[msgspec.Struct]]:
    """The sections that a value of this type is, or is a list of."""
    found = []
    for part in _parts(hint):
        if get_origin(part) in (list, tuple):
            found += _sections(get_args(part)[0])
        elif isinstance(part, type) and issubclass(part, msgspec.Struct):
            found.append(part)
    return found


def written(default: Any) -> str:
    """A default as it stands in the table."""
    if isinstance(default, str):
        return f"`{default}`"
    if isinstance(default, msgspec.Struct):
        return "see below"
    return f"`{json.dumps(default)}`"


FIELDS = set(fields(config.AgentConfig))  #: (key path, default)


def test_every_key_is_in_the_table_with_its_default() -> None:
    table = {
        (row[0].strip("`"), row[2])
        for row in rows(text_of("configuration.md"))
        if len(row) == 4 and re.fullmatch(r"`[a-z_.\[\]]+`", row[0])
    }
    assert table == FIELDS


def test_every_key_is_in_the_example() -> None:
    for key, _ in FIELDS:
        name = key.rpartition(".")[2]
        assert re.search(rf"\b{name}:", EXAMPLE), f"{key} is not in config/agent.example.yaml"


def uncommented(text: str) -> str:
    """The example with every key in a comment of its own made a key."""
    return re.sub(r"^( *)# ?( *(?:- )?[a-z_]+:(?: |$))", r"\1\2", text, flags=re.MULTILINE)


def test_the_example_is_valid_and_its_comments_show_the_defaults() -> None:
    plain = config.parse(EXAMPLE)
    whole = config.parse(uncommented(EXAMPLE))
    assert whole.mqtt is not None
    assert set(yaml.safe_load(uncommented(EXAMPLE))) == set(config.AgentConfig.__struct_fields__)
    assert whole.bundle == plain.bundle
    assert whole.results == plain.results
    folder = whole.sources[0]
    assert isinstance(folder, config.FolderConfig)
    assert folder == msgspec.structs.replace(plain.sources[0], name_pattern=folder.name_pattern)
    (camera,) = whole.sources[1:]
    assert camera == config.CameraConfig(name=camera.name, url="rtsp://10.0.0.20/stream1")
    default = config.MqttConfig()
    for field in ("protocol", "client_id", "topic", "keepalive_s", "message_expiry_s", "embedded"):
        assert getattr(whole.mqtt, field) == getattr(default, field), field
    # Nothing is shown that was forgotten to be a default: each uncommented line is a key with a value.
    for line in uncommented(EXAMPLE).splitlines():
        if re.match(r"\s*#", line):
            assert not re.match(r"\s*#\s*[a-z_]+:", line), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_yaml_is_configuration(page: Path) -> None:
    for block in blocks(page, "yaml"):
        if page.name == "training.md":
            assert isinstance(yaml.safe_load(block), dict)
            continue
        shown = yaml.safe_load(block)
        base = {} if "station" in shown else yaml.safe_load(SMALLEST)
        config.parse(yaml.safe_dump({**base, **shown}))


def test_error_lines_are_what_is_said() -> None:
    told = [row for row in rows(section("configuration.md", "What errors look like")) if len(row) == 2]
    assert len(told) >= 5
    for added, line in told:
        with pytest.raises(ConfigError) as caught:
            config.parse(SMALLEST + added.strip("`") + "\n", "agent.yaml")
        assert str(caught.value) == line.strip("`")


def test_the_places_looked_at_are_told_in_order() -> None:
    told = section("configuration.md", "Where the file is looked for")
    order = [told.index(place) for place in ("--config", f"${config.ENVIRONMENT}", *config.LOOKED_FOR)]
    assert order == sorted(order)


# --- result, status, health, bundle ---


def paths(kind: Any, path: str = "") -> Iterator[str]:
    for field in msgspec.structs.fields(kind):
        if field.encode_name in ("image", "model", "timing_ms"):
            yield from paths(_sections(get_type_hints(kind)[field.name])[0], f"{field.encode_name}.")
        else:
            yield f"{path}{field.encode_name}"


def test_every_field_of_a_result_is_told() -> None:
    assert codes(section("results.md", "Fields")) == set(paths(Result))


def test_the_result_in_the_readme_has_every_field() -> None:
    (shown,) = (json.loads(block) for block in blocks(ROOT / "README.md", "json"))
    schema = json.loads((ROOT / "config/schemas/result.schema.json").read_text())
    for digest in (shown["image"], shown["model"]):
        digest["sha256"] = "0" * 64
    jsonschema.validate(shown, schema)
    assert list(shown) == list(schema["properties"])
    assert sum(shown["probability"]) == pytest.approx(1)


def test_every_reason_code_is_told_and_none_is_made_up() -> None:
    assert source.unmatched(source.reason_codes(), codes(section("results.md", "Reason codes"))) == (set(), set())


def test_every_problem_code_is_told_and_none_is_made_up() -> None:
    told = codes(section("operations.md", "Problem codes"))
    patterns = source.problem_codes()
    assert "broker_away" in patterns
    assert "folder_missing:*" in patterns
    assert source.unmatched(patterns, told) == (set(), set())


def test_every_code_of_the_log_is_told_and_none_is_made_up() -> None:
    problems = {code.partition(":")[0] for code in codes(section("operations.md", "Problem codes"))}
    told = codes(section("operations.md", "Other codes of the log"))
    missing, odd = source.unmatched(source.log_codes(), problems | told)
    assert (missing, odd & told, problems & told) == (set(), set(), set())


def test_every_counter_is_told_and_none_is_made_up() -> None:
    table = [row for row in rows(section("topics.md", "…/health")) if len(row) == 2]
    told = {code for row in table for code in re.findall(r"`([^`]+)`", row[0])}
    missing, odd = source.unmatched(source.counters(), told)
    assert (missing, odd) == (set(), set())


def test_the_status_shown_meets_its_schema() -> None:
    shown = json.loads(next(block for block in blocks("topics.md", "json") if '"state": "online"' in block))
    shown["bundle"]["sha256"] = "0" * 64
    jsonschema.validate(shown, json.loads((ROOT / "config/schemas/status.schema.json").read_text()))


def test_the_health_shown_uses_counters_that_exist() -> None:
    shown = json.loads(next(block for block in blocks("topics.md", "json") if '"counters"' in block))
    assert source.unmatched(source.counters(), set(shown["counters"]))[1] == set()
    assert set(shown) - {"counters"} <= codes(section("topics.md", "…/health"))


def test_every_field_of_the_manifest_is_told() -> None:
    assert codes(section("bundle.md", "The manifest")) == set(Manifest.__struct_fields__)


def test_every_command_and_option_is_told() -> None:
    (group,) = [action for action in parser()._actions if hasattr(action, "choices") and action.choices]
    assert group.choices
    for name, command in dict(group.choices).items():
        told = section("commands.md", f"weldwatch {name}")
        for action in command._actions:
            for option in action.option_strings:
                if option.startswith("--") and option != "--help":
                    assert f"`{option}" in told, f"weldwatch {name} {option} is not in docs/commands.md"


def test_the_commands_told_exist() -> None:
    (group,) = [action for action in parser()._actions if hasattr(action, "choices") and action.choices]
    told = set(re.findall(r"^## weldwatch (\w+)$", text_of("commands.md"), re.MULTILINE))
    assert told == set(group.choices or ())


def test_every_dependency_is_explained() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    part = project[project.index("dependencies = [") : project.index("[project.scripts]")]
    names = set(re.findall(r'^\s*(?:\w+ = \[)?"([A-Za-z0-9-]+)', part, re.MULTILINE))
    assert {"msgspec", "onnxruntime", "iotcore", "tensorflow-cpu", "ruff"} <= names
    for name in names:
        assert re.search(rf"\b{name}\b", text_of("dependencies.md")), f"{name} is not in docs/dependencies.md"
