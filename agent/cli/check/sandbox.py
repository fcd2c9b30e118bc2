"""What the service's unit keeps from it, of the paths that the configuration names.

Root, and whoever tries by hand, write where the service must not: its unit gives it a file system of its own
(systemd.exec(5), "Sandboxing"). This is that view, made from what the unit says.

Invariants: the rule with the longest path counts, of two for one path the stricter; below what is closed wholly nothing
can be opened again (but what PrivateDevices= leaves of /dev); nothing is tried, and
nothing of the unit is changed. tests/deploy compares it with systemd's own.
"""

from __future__ import annotations

import os
import pwd
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from agent.cli.check.finding import Finding, is_there
from agent.cli.check.places import Place, places

if TYPE_CHECKING:
    from agent.cli.service import Unit
    from agent.config import AgentConfig

Kind = Literal["open", "read only", "closed", "apart"]
_YES = ("yes", "true", "on", "1")
_HOMES = ("/home", "/root", "/run/user")
_STRICT_FREE = ("/dev", "/proc", "/sys")  #: not made read only by ProtectSystem=strict
_HOSTS_OWN = ("/dev/shm", "/dev/mqueue")  #: PrivateDevices= keeps the host's  # noqa: S108  # named, not used
_PREFIX = "credential:"


@dataclass(frozen=True)
class Rule:
    """What ``why`` makes of everything below ``path``."""

    path: Path
    kind: Kind
    why: str


@dataclass(frozen=True)
class Barred:
    """A place that the service cannot use as it must."""

    place: Place
    path: Path
    rule: Rule


def sandbox(config: AgentConfig, unit: Unit | None, file: str) -> Iterator[Finding]:
    """One finding for each path that is kept from the service, and what to put into its unit."""
    name = "sandbox"
    if unit is None:
        yield Finding(name, "ok", f"no unit here runs {file}; where one shall, check again once it is installed")
        return
    all_places = [Place("configuration", str(Path(file).absolute()), "read"), *places(config)]
    rules = list(_rules(unit))
    barred = [one for place in all_places if (one := _barred(place, unit, rules)) is not None]
    yield from _user(unit)
    for one in barred:
        yield Finding(f"{name}: {one.place.key}", "failed", f"{unit.name}: {_told(one)}", "as the last line of sandbox")
    yield from _missing(unit)
    yield from _credentials(all_places, unit)
    if barred:
        keys = ", ".join(one.place.key for one in barred)
        yield Finding(name, "failed", f"{unit.name} cannot reach {keys}", remedy(barred, unit))
    else:
        yield Finding(name, "ok", f"{unit.name} (user {unit.last('User', 'root')}) may reach every path named here")


def remedy(barred: list[Barred], unit: Unit) -> str:
    """The commands that write the drop-in, to be copied; and what no drop-in should mend."""
    private = [one for one in barred if one.rule.why.startswith("PrivateTmp")]
    lines = list(_drop_in([one for one in barred if one not in private]))
    said = []
    if private:
        named = ", ".join(sorted({str(one.path) for one in private}))
        said.append(f"name another folder than {named}: the service has a /tmp of its own")
    if lines:
        folder = f"/etc/systemd/system/{unit.name}.d"
        text = "\\n".join(["[Service]", *lines, ""])
        absent = {str(one.path) for one in barred if one.place.need == "write" and not is_there(one.path)}
        made = "".join(f"sudo mkdir -p {shlex.join(sorted(folders))} && " for folders in (absent, {folder}) if folders)
        said.append(
            f"{made}printf '{text}' | sudo tee -a {folder}/paths.conf && "
            f"sudo systemctl daemon-reload && sudo systemctl restart {unit.name}"
        )
    return "; ".join(said)


def _drop_in(barred: list[Barred]) -> Iterator[str]:
    why = {one.rule.why.partition("=")[0] for one in barred}
    if "ProtectHome" in why:
        yield "ProtectHome=read-only"
    if "PrivateDevices" in why:
        yield "PrivateDevices=no"
        yield "SupplementaryGroups=video"
    if "InaccessiblePaths" in why:
        yield "InaccessiblePaths="
    bound = [one for one in barred if one.rule.why == "TemporaryFileSystem"]
    if bound:
        yield f"BindPaths={_words(bound)}"
    written = [one for one in barred if one.place.need == "write" and one.rule.why != "PrivateDevices=yes"]
    if written := [one for one in written if one not in bound]:
        yield f"ReadWritePaths={_words(written)}"


def _words(barred: list[Barred]) -> str:
    return " ".join(_quoted(path) for path in sorted({str(one.path) for one in barred}))


def _quoted(path: str) -> str:
    """As systemd reads a word, and as it stands within the single quotes of a shell and the format of printf."""
    word = f'"{path}"' if " " in path else path
    return word.replace("%", "%%%%").replace("'", "'\\''")


def _told(one: Barred) -> str:
    how = {
        "read only": "is read only for the service, and must be written",
        "closed": "is not there for the service",
        "apart": "is another folder for the service, an empty one of its own",
    }
    return f"{one.path} {how[one.rule.kind]} ({one.rule.why})"


def _barred(place: Place, unit: Unit, rules: list[Rule]) -> Barred | None:
    if place.path.startswith(_PREFIX):
        return None
    path = (Path(unit.expand(unit.last("WorkingDirectory", "/")).lstrip("-")) / place.path).resolve()
    holding = [rule for rule in rules if path == rule.path or rule.path in path.parents]
    rule = max(holding, key=lambda one: (len(one.path.parts), one.kind != "open"), default=None)
    for kind, opens in (("closed", ()), ("apart", ("BindPaths", "BindReadOnlyPaths"))):
        for other in holding:
            kept = rule is not None and str(rule.path) in _HOSTS_OWN and other.why == "PrivateDevices=yes"
            if other.kind == kind and rule is not None and rule.why not in opens and not kept:
                rule = other
    if rule is None or rule.kind == "open" or (rule.kind == "read only" and place.need == "read"):
        return None
    return Barred(place, path, rule)


def _rules(unit: Unit) -> Iterator[Rule]:
    """All that the unit says of paths, in any order."""
    for base, key in (("/run", "Runtime"), ("/var/lib", "State"), ("/var/cache", "Cache"), ("/var/log", "Logs")):
        for word in unit.words(f"{key}Directory"):
            yield _rule(f"{base}/{word.partition(':')[0]}", "open", f"{key}Directory={word}")
    for word in unit.words("ReadWritePaths", "ReadWriteDirectories"):
        yield _rule(word, "open", "ReadWritePaths")
    for word in unit.words("BindPaths"):
        yield _rule(_target(word), "open", "BindPaths")
    for word in unit.words("BindReadOnlyPaths"):
        yield _rule(_target(word), "read only", "BindReadOnlyPaths")
    for word in unit.words("ReadOnlyPaths", "ReadOnlyDirectories"):
        yield _rule(word, "read only", "ReadOnlyPaths")
    for word in unit.words("InaccessiblePaths", "InaccessibleDirectories"):
        yield _rule(word, "closed", "InaccessiblePaths")
    for word in unit.words("TemporaryFileSystem"):
        yield _rule(word.partition(":")[0], "apart", "TemporaryFileSystem")
    yield from _homes(unit.last("ProtectHome", "no").lower())
    yield from _system(unit.last("ProtectSystem", "no").lower())
    tmp = unit.last("PrivateTmp", "no").lower()
    if tmp in (*_YES, "disconnected"):
        for path in ("/tmp", "/var/tmp"):  # noqa: S108  # named, not used
            yield _rule(path, "apart", f"PrivateTmp={tmp}")
    if unit.last("PrivateDevices", "no").lower() in _YES:
        yield _rule("/dev", "closed", "PrivateDevices=yes")
        for path in _HOSTS_OWN:
            yield _rule(path, "open", "PrivateDevices=yes")


def _target(word: str) -> str:
    """Of ``from:to:options`` where the service sees it."""
    source, _, rest = word.partition(":")
    return rest.partition(":")[0] or source


def _homes(said: str) -> Iterator[Rule]:
    kinds: dict[str, Kind] = {"read-only": "read only", "tmpfs": "apart", **dict.fromkeys(_YES, "closed")}
    if (kind := kinds.get(said)) is not None:
        for path in _HOMES:
            yield _rule(path, kind, f"ProtectHome={said}")


def _system(said: str) -> Iterator[Rule]:
    if said == "strict":
        yield _rule("/", "read only", "ProtectSystem=strict")
        for path in _STRICT_FREE:
            yield _rule(path, "open", "ProtectSystem=strict")
    elif said in (*_YES, "full"):
        for path in ("/usr", "/boot", "/efi", *(["/etc"] if said == "full" else [])):
            yield _rule(path, "read only", f"ProtectSystem={said}")


def _rule(path: str, kind: Kind, why: str) -> Rule:
    return Rule(Path(path.lstrip("-+")).resolve(), kind, why)


def _user(unit: Unit) -> Iterator[Finding]:
    """Whether the rest is tried as the service's user."""
    wanted = unit.last("User", "root")
    try:
        uid = int(wanted) if wanted.isdigit() else pwd.getpwnam(wanted).pw_uid
    except KeyError:
        detail = f"{unit.name} runs as {wanted}, who is no user here"
        yield Finding("sandbox: user", "failed", detail, f"sudo adduser --system --group {wanted}")
        return
    if uid != os.geteuid():
        remedy = f"sudo weldwatch check …, and let the state folder belong to {wanted}"
        yield Finding("sandbox: user", "warning", f"{unit.name} runs as {wanted}; the rest is tried as another", remedy)


def _missing(unit: Unit) -> Iterator[Finding]:
    """A path that the unit names and that is not there keeps the service from starting at all."""
    for word in unit.words("ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths"):
        if not word.startswith(("-", "+-")) and _is_absent(Path(word.lstrip("+"))):
            detail = f"{unit.name} names {word}, which is not there: the service does not start (226/NAMESPACE)"
            yield Finding("sandbox: unit", "failed", detail, f"sudo mkdir -p {shlex.quote(word.lstrip('+'))}")


def _is_absent(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:  # we may not see it; root, who makes the sandbox, does
        return False
    return False


def _credentials(named: list[Place], unit: Unit) -> Iterator[Finding]:
    given = {
        word.partition(":")[0] for word in unit.words("LoadCredential", "LoadCredentialEncrypted", "SetCredential")
    }
    for place in named:
        if place.path.startswith(_PREFIX) and (name := place.path.removeprefix(_PREFIX)) not in given:
            detail = f"{unit.name} hands the service no credential {name}"
            yield Finding(f"sandbox: {place.key}", "failed", detail, f"LoadCredential={name}:<file> in the unit")
