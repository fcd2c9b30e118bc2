"""Where a secret lies: a path, or ``credential:<name>`` for one that systemd hands to the service (LoadCredential=).

Invariants: a secret is read from a file when it is needed and never kept in the configuration; a name leads to no other
folder than ``$CREDENTIALS_DIRECTORY``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from agent.errors import UsageError

_PREFIX = "credential:"


def secret_path(value: str, key: str) -> Path:
    """The file that ``value`` of the configuration's ``key`` names. ``UsageError`` for a credential we do not have."""
    if not value.startswith(_PREFIX):
        return Path(value)
    name = value.removeprefix(_PREFIX)
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*", name):
        raise UsageError(f"{key}: found {value!r}; after {_PREFIX} comes the name of a credential, without '/'")
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise UsageError(
            f"{key}: {value}: only a service has credentials; to try it by hand, set CREDENTIALS_DIRECTORY to a folder "
            f"with a file {name}, or ask the running service's: /run/credentials/weldwatch.service"
        )
    return Path(folder) / name
