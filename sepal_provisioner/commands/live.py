"""One live table of builds on a terminal. Needs rich."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..files import human_time
from ..pool import Row, Step

STYLES = {Step.RUNNING: "cyan", Step.WAITING: "dim", Step.FAILED: "red", Step.READY: "green"}
BAR_WIDTH = 16
MARGIN = 3  # columns: a terminal's `^C` behind a full line would take a line of its own, and the table would not vanish
FRAME = 3  # lines of a terminal that are not rows: the head, what is left out, the cursor's


@contextlib.contextmanager
def live_table() -> Iterator[Callable[[Sequence[Row]], None]]:
    """Draw the builds on standard error, as often as the yielded function is called with them.

    The table vanishes when the block ends: what remains on the screen is the report.
    """
    console = Console(stderr=True)
    with Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False) as live:
        yield lambda rows: live.update(
            _table(rows, console.width - MARGIN, max(1, console.height - FRAME)), refresh=True
        )


def _table(rows: Sequence[Row], width: int, room: int) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, width=width, header_style="bold")
    table.add_column("KERNEL", no_wrap=True, max_width=32, overflow="ellipsis")
    table.add_column("STATE", no_wrap=True)
    table.add_column("", width=BAR_WIDTH, no_wrap=True)
    table.add_column("", no_wrap=True, justify="right", width=4)
    table.add_column("ELAPSED", no_wrap=True, justify="right")
    table.add_column("", ratio=1, no_wrap=True, overflow="ellipsis")
    for row in rows[:room]:
        drawn = row.step in (Step.RUNNING, Step.READY)
        table.add_row(
            Text(row.name),
            Text(row.step.value, style=STYLES[row.step]),
            ProgressBar(total=1.0, completed=row.fraction, width=BAR_WIDTH) if drawn else "",
            f"{row.fraction:.0%}" if drawn else "",
            human_time(row.seconds) if row.seconds else "",
            Text(row.sentence()),
        )
    if more := rows[room:]:
        counts = [(step.value, sum(row.step is step for row in more)) for step in Step]
        left = ", ".join(f"{count} {word}" for word, count in counts if count)
        table.add_row(Text(f"… {len(more)} more", style="dim"), "", "", "", "", Text(left, style="dim"))
    return table
