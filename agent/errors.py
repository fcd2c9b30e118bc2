"""The error tree. An error's class says what to do next; its text is one line for the person who must act.

WeldwatchError
├── UsageError            wrong command or configuration: exit 2, nothing was started
│   ├── ConfigError       a key of the configuration: file, key path, what was found, what is allowed
│   └── BundleError       a bundle that must not judge: the one in use (if any) goes on
├── ImageError            this image can never be inspected: a NotDecidable result with ``code`` as its reason
│   └── TruncatedImageError  … unless its file is still being written: the source looks again until ``incomplete_s``
├── RetryError            the far end is away or full: keep, back off, try again
├── RejectError           the far end will never take this one: dead letter with its reason, then go on
└── FatalError            the agent cannot go on: say why, exit 1
"""

from __future__ import annotations


class WeldwatchError(Exception):
    """Base of all errors that weldwatch raises on purpose. ``str(error)`` is one line, fit for a log or a terminal."""


class UsageError(WeldwatchError):
    """What the user asked for cannot be: shown as one line, exit code 2."""


class ConfigError(UsageError):
    """A configuration that cannot be used.

    The line reads ``<file>: <key path>: <what was found>; <what is allowed>``.
    """

    def __init__(self, file: str, key: str, found: str, allowed: str = "") -> None:
        self.file, self.key, self.found, self.allowed = file, key, found, allowed
        parts = [part for part in (file, key, found) if part]
        super().__init__(": ".join(parts) + (f"; {allowed}" if allowed else ""))


class BundleError(UsageError):
    """A bundle that is damaged, incomplete, unknown or fails its self-test. It never judges a frame."""


class ImageError(WeldwatchError):
    """An image that cannot be inspected. ``code`` is the stable reason code of the NotDecidable result."""

    def __init__(self, code: str, detail: str) -> None:
        self.code, self.detail = code, detail
        super().__init__(f"{code}: {detail}")


class TruncatedImageError(ImageError):
    """The bytes end too soon, or do not decode to the end: perhaps the file is still being written."""


class RetryError(WeldwatchError):
    """Not now: the broker is away, the disk is full. Nothing is lost; try again later."""


class RejectError(WeldwatchError):
    """Never: the far end refuses this one message for good. It becomes a dead letter with this reason."""


class FatalError(WeldwatchError):
    """The agent cannot go on. Exit code 1."""
