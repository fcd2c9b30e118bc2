"""What people read in columns: one table, and one console for the lines around it.

Invariants: as wide as the terminal, 80 columns where it does not say; a cell that finds no room is folded, never cut.
Piped, a row is a line, without colour and without spaces at its end. Cells are others' words (names of images, of
bundles, reasons): shown as text, never as markup, and no control character of theirs reaches a terminal.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from agent.logs import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_UNBOUNDED = 100_000  #: columns of what is no terminal


def console() -> Console:
    """To stdout."""
    from rich.console import Console

    out = Console(highlight=False, markup=False, emoji=False)
    return out if out.is_terminal else Console(highlight=False, markup=False, emoji=False, width=_UNBOUNDED)


def show(heads: Sequence[str], rows: Iterable[Sequence[str | Text]], *, right: Collection[int] = ()) -> None:
    """Print a table; columns in ``right`` are numbers. Without ``heads`` it has no line of them."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=bool(heads))
    body = [list(row) for row in rows]
    for at in range(len(heads) or max(map(len, body), default=0)):
        head = heads[at] if heads else ""
        table.add_column(head, justify="right" if at in right else "left", no_wrap=at in right, overflow="fold")
    for row in body:
        table.add_row(*(Text(printable(cell)) if isinstance(cell, str) else cell for cell in row))
    out = console()
    with out.capture() as drawn:
        out.print(table)
    for line in drawn.get().splitlines():
        print(line if out.is_terminal else line.rstrip())
