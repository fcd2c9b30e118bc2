"""The packages of a station with their licences, from the bill of materials: the notices that go with them."""

from __future__ import annotations

from typing import Any

from tables import code, table

from locks import sbom

_HEAD = """\
# Components

What is installed on a station, from the lock of Python {python}: `make sbom` writes the same with hashes and with what
needs what, as [CycloneDX]({file}){{ download }}. Licences are told as the packages tell them; their texts are installed
with them, below `site-packages/*.dist-info`. Why each is here: [Dependencies](../dependencies.md).

"""
FILE = "reference/components.cdx.json"


def page() -> str:
    """One table."""
    bom = sbom.bill()
    rows = [[code(one["name"]), one["version"], _licence(one), _where(one)] for one in bom["components"]]
    head = _HEAD.format(python=sbom.python_here(), file=FILE.rpartition("/")[2])
    return head + table(["package", "version", "licence", "only where"], rows)


def document() -> str:
    """The bill of materials itself."""
    return sbom.written(sbom.bill())


def _licence(one: dict[str, Any]) -> str:
    told = one.get("licenses", [{}])[0]
    return str(told.get("expression") or told.get("license", {}).get("name", "not installed here"))


def _where(one: dict[str, Any]) -> str:
    return ", ".join(code(value["value"]) for value in one.get("properties", ()))
