"""What a person sees of long work: a bar for each step where stderr is a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from training.fit import Tell


@contextmanager
def shown() -> Iterator[Tell]:
    """A `Tell` that draws bars on a terminal's stderr; into a file or pipe it writes only the lines with words."""
    if not sys.stderr.isatty():
        yield _plain
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def tell(what: str, done: int, total: int, words: str) -> None:
            if words:
                bars.console.print(f"{what} {done}/{total}: {words}", markup=False, highlight=False)
                return
            if what not in tasks:
                for task in tasks.values():
                    bars.update(task, visible=False)
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total, visible=done < total)

        yield tell


def _plain(what: str, done: int, total: int, words: str) -> None:
    if words:
        sys.stderr.write(f"{what} {done}/{total}: {words}\n")
        sys.stderr.flush()
