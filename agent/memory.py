"""glibc's allocator, told that this process is small and lives for years. Elsewhere these calls do nothing.

Measured with a MobileNet of alpha 1 in fp32: 170 MB resident without, see ``docs/decisions`` for what it saves.
"""

from __future__ import annotations

import ctypes
from typing import Any

_M_ARENA_MAX, _M_MMAP_THRESHOLD = -8, -3  # mallopt's numbers for them in malloc.h


def frugal() -> None:
    """Call once, before threads start.

    Threads share two arenas, for each of its own would keep what its thread once needed; and whatever is as large as a
    picture goes back to the system the moment it is freed, at the price of fresh pages for the next one.
    """
    _call("mallopt", _M_ARENA_MAX, 2)
    _call("mallopt", _M_MMAP_THRESHOLD, 128 * 1024)


def give_back() -> None:
    """Return freed memory to the system, after work that needed much and will not come again (loading a model)."""
    _call("malloc_trim", 0)


def _call(name: str, *arguments: int) -> None:
    function: Any = getattr(ctypes.CDLL(None), name, None)
    if function is not None:
        function(*arguments)
