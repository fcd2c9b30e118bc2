"""What every section of the configuration is made of: strictness, and the types at its leaves."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

#: One level of an MQTT topic: it becomes part of one, and of file names.
TopicLevel = Annotated[
    str,
    Meta(
        pattern=r"^[^/+#\x00-\x1f\x7f\ud800-\udfff]+\Z",
        max_length=80,
        description="one level of an MQTT topic: 1 to 80 characters without '/', '+', '#'",
    ),
]
Seconds = Annotated[float, Meta(ge=0, le=86_400)]
Port = Annotated[int, Meta(ge=1, le=65_535)]


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every section refuses what it does not know."""


class TlsConfig(Section, frozen=True):
    """Paths to PEM files. Without ``ca`` the system's own authorities are trusted."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
