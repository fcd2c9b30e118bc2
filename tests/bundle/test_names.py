"""Names, versions and digests of a manifest end where they end."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from agent.bundle.manifest import Name, Sha256, Version


@pytest.mark.parametrize(("kind", "good"), [(Name, "a"), (Version, "1.2.3-rc.1"), (Sha256, "0" * 64)])
def test_what_ends_in_a_newline_is_refused(kind: Any, good: str) -> None:
    assert msgspec.json.decode(json.dumps(good), type=kind) == good
    for bad in (good + "\n", good + "\n\n", good + "\r", "\n" + good):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(json.dumps(bad), type=kind)
