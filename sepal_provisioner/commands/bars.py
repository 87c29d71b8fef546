"""Live bars on a terminal. Needs rich."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Column

from .. import progress as builds


@contextlib.contextmanager
def bars() -> Iterator[Callable[[str, builds.Progress], None]]:
    """One bar for each build that runs; they vanish when the block ends, for each result is printed by itself."""
    display = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[sentence]}", table_column=Column(ratio=1, no_wrap=True)),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # elsewhere a result belongs to whoever reads our standard output
    )
    numbers: dict[str, TaskID] = {}
    with display:

        def on_progress(name: str, progress: builds.Progress) -> None:
            if name not in numbers:
                numbers[name] = display.add_task(name, total=1, sentence="")
            display.update(numbers[name], completed=progress.fraction, sentence=escape(progress.sentence()))

        yield on_progress
