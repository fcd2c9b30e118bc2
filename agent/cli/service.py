"""The unit that runs a configuration, and what it says, read from systemd's files.

Files, not ``systemctl``: they are there in a container and in an image that is being built too, and any user may read
them. Drop-ins count, in systemd's order: by their names, and a name in ``/etc`` hides the same name in ``/usr/lib``.

Invariants: reads, and changes nothing but this process's environment; a unit that cannot be read is none.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

#: Where units lie; the first that has a name counts, as in systemd.unit(5).
FOLDERS = [
    Path("/etc/systemd/system.control"),  # of `systemctl set-property`, as the next
    Path("/run/systemd/system.control"),
    Path("/etc/systemd/system"),
    Path("/run/systemd/system"),
    Path("/usr/local/lib/systemd/system"),
    Path("/usr/lib/systemd/system"),
    Path("/lib/systemd/system"),
]
CREDENTIALS = Path("/run/credentials")  #: a folder for each service that runs and has some
_DEFAULT = "/etc/weldwatch/agent.yaml"  #: without --config in its command


@dataclass
class Unit:
    """A service. ``said``: key of ``[Service]`` → values in their order, those before an empty one forgotten."""

    name: str
    instance: str = ""
    said: dict[str, list[str]] = field(default_factory=dict)

    def last(self, key: str, otherwise: str = "") -> str:
        """What holds of a key that has one value."""
        return (self.said.get(key) or [otherwise])[-1]

    def words(self, *keys: str) -> list[str]:
        """All words of keys that are lists."""
        found: list[str] = []
        for key in keys:
            for value in self.said.get(key, []):
                found += _split(self.expand(value))
        return found

    def expand(self, text: str) -> str:
        """``text`` with systemd's specifiers put in, those that name paths."""
        known = {"i": self.instance, "I": self.instance, "n": self.name, "N": self.name.removesuffix(".service"),
                 "p": self.name.partition("@")[0].removesuffix(".service"), "S": "/var/lib", "C": "/var/cache",
                 "L": "/var/log", "t": "/run", "T": "/tmp", "V": "/var/tmp", "E": "/etc", "%": "%"}  # fmt: skip  # noqa: S108
        return re.sub(r"%(.)", lambda found: known.get(found[1], found[0]), text)

    @property
    def config(self) -> str:
        """The configuration that its command names, specifiers left as they are."""
        words = _split(self.last("ExecStart"))
        for word, following in zip(words, [*words[1:], ""], strict=True):
            if word == "--config":
                return following
            if word.startswith("--config="):
                return word.removeprefix("--config=")
        return _DEFAULT


def unit_of(config: Path) -> Unit | None:
    """The installed unit that runs this configuration: ``weldwatch.service``, ``weldwatch@line1.service``, or none."""
    wanted = str(config.resolve())
    for name in _names():
        unit = read(name)
        if unit.last("ExecStart") == "":
            continue
        if not name.endswith("@.service"):
            if str(Path(unit.expand(unit.config)).resolve()) == wanted:
                return unit
            continue
        pattern = re.escape(unit.config).replace("%i", "([^/]+)", 1).replace("%I", "([^/]+)", 1)
        found = re.fullmatch(pattern, wanted) or re.fullmatch(pattern, str(config.absolute()))
        if found and found.groups():
            return read(name.replace("@", f"@{found[1]}"))
    return None


def lend_credentials(unit: Unit | None) -> None:
    """Let this process use what systemd hands to the unit: variables that the configuration names and that are not
    set here; credentials, where the unit runs and nobody named another folder.
    """
    if unit is None:
        return
    given = _environment(unit)
    for name in _named(Path(unit.expand(unit.config))) & given.keys():
        os.environ.setdefault(name, given[name])
    if "CREDENTIALS_DIRECTORY" in os.environ:
        return
    folder = CREDENTIALS / unit.name
    try:
        if folder.is_dir():
            os.environ["CREDENTIALS_DIRECTORY"] = str(folder)
    except OSError:  # closed to us: what needs a credential says so
        return


def _environment(unit: Unit) -> dict[str, str]:
    """Of ``Environment=``, then of ``EnvironmentFile=``, which counts more."""
    words = unit.words("Environment")
    for file in unit.said.get("EnvironmentFile", []):
        try:
            text = Path(unit.expand(file).removeprefix("-")).read_text(encoding="utf-8", errors="replace")
        except OSError:  # closed to us, or away: what needs a variable says so
            continue
        words += [_assigned(line) for line in _lines(text)]
    return dict(word.split("=", 1) for word in words if "=" in word)


def _named(config: Path) -> set[str]:
    """Variables that the configuration names. No other is lent: LD_PRELOAD would lead root, who may be the caller."""
    try:
        text = config.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    return set(re.findall(r"_env[\"']?\s*:\s*[\"']?(\w+)", text))


def _assigned(line: str) -> str:
    """A line of an environment file: without quotes the value goes to the end of the line, blanks and all."""
    name, _, value = line.partition("=")
    value = value.strip()
    unquoted = " ".join(_split(value)) if value[:1] in ("'", '"') else value
    return f"{name.strip()}={unquoted}"


def read(name: str) -> Unit:
    """A unit by its full name; nothing is said in one that is not there."""
    head, at, tail = name.removesuffix(".service").partition("@")
    unit = Unit(name, tail)
    template = f"{head}@.service" if at else name
    base = _first(name) or _first(template)
    for path in [base, *_drop_ins(dict.fromkeys(("service", template, name)))]:
        if path is not None:
            _take(unit, path)
    return unit


def _names() -> list[str]:
    """Units of ours, templates last."""
    found = {path.name for folder in FOLDERS for path in folder.glob("weldwatch*.service")}
    return sorted(found, key=lambda name: (name.endswith("@.service"), name))


def _first(name: str) -> Path | None:
    return next((folder / name for folder in FOLDERS if (folder / name).is_file()), None)


def _drop_ins(names: dict[str, None]) -> list[Path]:
    """By file name; of two with one name the one that is more particular, or in a folder that comes first."""
    found: dict[str, Path] = {}
    for name in reversed(names):
        for folder in FOLDERS:
            for path in folder.glob(f"{name.replace('[', '[[]')}.d/*.conf"):
                found.setdefault(path.name, path)
    return [found[name] for name in sorted(found)]


def _take(unit: Unit, path: Path) -> None:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    section = ""
    for line in _lines(text):
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line:
            key, _, value = (part.strip() for part in line.partition("="))
            if value:
                unit.said.setdefault(key, []).append(value)
            else:
                unit.said.pop(key, None)


def _lines(text: str) -> Iterator[str]:
    """Without comments, and those that a backslash ends joined to the next."""
    kept = ""
    for line in text.splitlines():
        if line.lstrip().startswith(("#", ";")):
            continue
        if line.endswith("\\"):
            kept += line[:-1] + " "
            continue
        if whole := (kept + line).strip():
            yield whole
        kept = ""


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # a quote that is left open
        return text.split()
