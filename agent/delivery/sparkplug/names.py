"""Who the station is in the namespace of Sparkplug, and what a broker may do to it there."""

from __future__ import annotations

from dataclasses import dataclass

from agent.errors import RetryError


@dataclass(frozen=True)
class Names:
    """Who the station is in the namespace of Sparkplug."""

    group: str
    node: str
    device: str

    def of_node(self, verb: str) -> str:
        """The topic of the edge node."""
        return f"spBv1.0/{self.group}/{verb}/{self.node}"

    def of_device(self, verb: str) -> str:
        """The topic of the device."""
        return f"{self.of_node(verb)}/{self.device}"


class SwallowedError(RetryError):
    """The broker handed back a later message and not this one."""


class DeniedError(RetryError):
    """The broker lets us in, but not do what an edge node must."""
