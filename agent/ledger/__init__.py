"""The ledger: the one door to SQLite. Results, the cursor of each sink, dead letters, and the files already seen.

``Ledger`` is the agent's; ``reader`` looks at the same file from a command line, without write access.
"""

from __future__ import annotations

from agent.ledger.dead import DeadLetter
from agent.ledger.ledger import Entry, Ledger

__all__ = ["DeadLetter", "Entry", "Ledger"]
