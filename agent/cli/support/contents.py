"""What is packed. A part that cannot be had says why, in its own place: the others are packed all the same."""

from __future__ import annotations

import json
import platform
import subprocess
import traceback
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec.inspect

from agent import __version__, config, strict_yaml
from agent.cli.service import lend_credentials, unit_of
from agent.cli.support import redaction
from agent.config import AgentConfig
from agent.errors import WeldwatchError
from agent.logs import printable

JOURNAL_LINES = 2000
DAYS = 7
_README = """\
From `weldwatch support` of {version}, {time}.

configuration.yaml  the station's configuration; passwords, tokens, keys, user names and the paths of addresses removed
check.json          what `weldwatch check --json` says
versions.json       weldwatch, Python, its packages, system, processor
journal.txt         the last {lines} lines of the log of the service that runs it, if the caller may read them
outbox.json         how far each sink is, and its dead letters without their results
statistics.json     what was found in the last {days} days, in numbers
frames/             only with --frames: the last images

Names of images and parts stand in journal.txt and outbox.json. Nothing was sent anywhere.
"""


def gather(source: Path, frames: int) -> Iterator[tuple[str, bytes]]:
    """Name and content of every part."""
    lend_credentials(unit_of(source))  # first: what check may use, the redaction must know
    text, settings, trouble = _settings(source)
    scrubber = redaction.Scrubber(text)

    def clean(content: str) -> bytes:
        return scrubber.text(content).encode("utf-8", "replace")

    now = datetime.now(timezone.utc)
    head = _README.format(version=__version__, time=f"{now:%Y-%m-%d %H:%M UTC}", lines=JOURNAL_LINES, days=DAYS)
    yield "README.txt", head.encode()
    yield "configuration.yaml", clean(trouble or _yaml(redaction.settings(text)))
    yield "versions.json", clean(json.dumps(_versions(), indent=1))
    yield "journal.txt", clean(_journal(source))  # before check, which goes on as the agent's user
    if settings is None:
        return
    for name, part in (("check.json", _check), ("outbox.json", _outbox), ("statistics.json", _statistics)):
        yield name, clean(_or_why(part, settings, source))
    yield from _frames(settings, frames)


def _settings(source: Path) -> tuple[Any, AgentConfig | None, str]:
    """The configuration as YAML has it, as the agent has it, and what is wrong with it."""
    try:
        text: Any = strict_yaml.load_yaml(source.read_text(encoding="utf-8", errors="replace"), str(source))
    except (OSError, WeldwatchError) as error:
        return None, None, f"# cannot be read: {error}\n"
    try:
        return text, config.load(source), ""
    except WeldwatchError as error:
        shown = _yaml(redaction.settings(text, _keys(msgspec.inspect.type_info(config.AgentConfig))))
        return text, None, f"# wrong: {printable(str(error))}\n{shown}"


def _keys(kind: msgspec.inspect.Type) -> set[str]:
    """The names of all keys that a configuration of this type can have, at whatever depth."""
    if isinstance(kind, msgspec.inspect.UnionType):
        return set().union(*(_keys(one) for one in kind.types))
    if isinstance(kind, msgspec.inspect.CollectionType):
        return _keys(kind.item_type)
    if not isinstance(kind, msgspec.inspect.StructType):
        return set()
    tag = {kind.tag_field} if kind.tag_field else set()
    return tag.union(*({field.encode_name} | _keys(field.type) for field in kind.fields))


def _yaml(value: Any) -> str:
    import yaml

    return str(yaml.safe_dump(value, allow_unicode=True, sort_keys=False))


def _or_why(part: Callable[[AgentConfig, Path], Any], settings: AgentConfig, source: Path) -> str:
    try:
        return json.dumps(part(settings, source), indent=1)
    except (WeldwatchError, OSError) as error:
        return json.dumps({"missing": str(error)})
    except Exception as error:  # noqa: BLE001  # a fault of ours is what a pack is asked for: the others are packed
        return json.dumps({"missing": f"unexpected: {type(error).__name__}: {error}", "fault": traceback.format_exc()})


def _check(settings: AgentConfig, source: Path) -> Any:
    from dataclasses import asdict

    from agent.cli.check import examine

    return [asdict(finding) for finding in examine(settings, str(source))]


def _outbox(settings: AgentConfig, _: Path) -> Any:
    from dataclasses import asdict

    from agent.ledger.reader import Reader

    with Reader(Path(settings.state)) as ledger:
        letters = [{**asdict(letter), "body": None} for letter in ledger.dead(100)]
        return {"sinks": [asdict(sink) for sink in ledger.sinks()], "dead_letters": letters}


def _statistics(settings: AgentConfig, _: Path) -> Any:
    from agent.cli.log.reading import Wanted, read
    from agent.cli.log.statistics import Statistics

    statistics = Statistics(settings.zone)
    since = datetime.now(timezone.utc) - timedelta(days=DAYS)
    for line in read(Path(settings.results.directory), Wanted(since=since)):
        statistics.add(line)
    return statistics.as_json()


def _versions() -> dict[str, Any]:
    from importlib.metadata import distributions

    processor = ""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        processor = next((line.partition(": ")[2] for line in lines if line.startswith(("model name", "Model"))), "")
    except OSError:
        pass  # not Linux as we know it; the rest tells enough
    return {
        "weldwatch": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": processor or platform.machine(),
        "packages": {
            one.metadata["Name"]: one.version for one in sorted(distributions(), key=lambda d: d.name.lower())
        },
    }


def _journal(source: Path) -> str:
    """Of the unit that runs this configuration; of ours where none is known to."""
    unit = unit_of(source)
    name = unit.name if unit is not None else "weldwatch.service"
    command = ["journalctl", f"--unit={name}", "--no-pager", f"--lines={JOURNAL_LINES}", "--output=short-iso"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"missing: {error}\n"
    said = (done.stdout or done.stderr).decode(errors="replace")
    return f"# {name}\n{said}" if said else f"missing: the journal has no line of {name}\n"


def _frames(settings: AgentConfig, count: int) -> Iterator[tuple[str, bytes]]:
    """The last images that are still where they were inspected."""
    if count <= 0:
        return
    from agent.config import FolderConfig
    from agent.ledger.reader import Reader
    from agent.sources.camera.build import folder_of

    roots = {
        source.name: Path(source.path) if isinstance(source, FolderConfig) else folder_of(source, settings.results)
        for source in settings.sources
    }
    try:
        with Reader(Path(settings.state)) as ledger:
            images = [json.loads(one.body)["image"] for one in ledger.results(newest=count)]
    except WeldwatchError:
        return
    for number, image in enumerate(images):
        root = roots.get(image["source"])
        path = root / image["name"] if root else None
        if not (root and path):
            continue
        name = f"frames/{number:03d}_{printable(path.name)[:100]}"
        try:
            if path.is_file() and path.resolve().is_relative_to(root.resolve()):
                yield name, path.read_bytes()
        except OSError as error:
            yield f"{name}.txt", f"missing: {error.strerror}\n".encode()
