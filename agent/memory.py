"""glibc's allocator, told that this process is small and lives for years. Elsewhere these calls do nothing.

Measured with a MobileNet of alpha 1 in fp32: 170 MB resident without, see ``docs/decisions`` for what it saves.
"""

from __future__ import annotations

import ctypes
from typing import Any

_M_ARENA_MAX = -8  # mallopt's number for it in malloc.h


def few_arenas(most: int = 2) -> None:
    """Share allocator arenas between threads: each one of its own would keep what its thread once needed."""
    _call("mallopt", _M_ARENA_MAX, most)


def give_back() -> None:
    """Return freed memory to the system, after work that needed much and will not come again (loading a model)."""
    _call("malloc_trim", 0)


def _call(name: str, *arguments: int) -> None:
    function: Any = getattr(ctypes.CDLL(None), name, None)
    if function is not None:
        function(*arguments)
