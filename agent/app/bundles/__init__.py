"""The bundles of a running station: which one judges, how new ones come, and which one judges beside.

life    chosen at the start, swapped while the station works, rolled back when it does harm
trial   the first frames after a swap
arrival the commands ``bundle-install``, ``bundle-activate`` and ``bundle-rollback``
remote  a file or an address that a command names
drop    a folder whose files are installed and activated
shadow  a candidate that judges the same frames beside the active bundle
"""

from __future__ import annotations

from agent.app.bundles.arrival import Arrival
from agent.app.bundles.life import Bundles
from agent.app.bundles.remote import Remote
from agent.app.bundles.shadow import Shadow

__all__ = ["Arrival", "Bundles", "Remote", "Shadow"]
