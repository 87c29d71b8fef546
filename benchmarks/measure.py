"""Measuring side by side: what a measure is, how its two sides take turns, and a place of their own for both.

Nothing here knows what is measured. A duration alone says little on a machine that others use too; the ratio of two
things that took turns within one run says the same on every machine, so that is what a bound is about.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_OWN_PLACES = {
    "JUPYTER_DATA_DIR": "data",
    "JUPYTER_CONFIG_DIR": "config",
    "JUPYTER_RUNTIME_DIR": "runtime",
    "IPYTHONDIR": "ipython",
}


@dataclass(frozen=True)
class Unit:
    """What is measured: a name, and how many of them are worth a larger unit's name."""

    name: str
    small: str
    factor: float


SECONDS = Unit("s", "ms", 1000)
MEGABYTES = Unit("MB", "kB", 1000)
PERCENT = Unit("%", "‰", 10)


@dataclass(frozen=True)
class Measure:
    """Two lists of durations that were taken in turns, in seconds where `unit` says nothing else.

    `bound` is what the ratio of their medians may be at most; None where the ratio is told for information only.
    """

    name: str
    ours: tuple[float, ...]
    reference: tuple[float, ...]
    bound: float | None = None
    unit: Unit = SECONDS

    @property
    def ratio(self) -> float:
        """Our median in units of the reference's."""
        return statistics.median(self.ours) / statistics.median(self.reference)

    @property
    def held(self) -> bool:
        """Whether the ratio is within its bound."""
        return self.bound is None or self.ratio <= self.bound

    @property
    def verdict(self) -> str:
        """The last column of the table."""
        if self.bound is None:
            return "-"
        return "ok" if self.held else "MISSED"

    def to_json(self) -> dict[str, Any]:
        """Everything that was measured, as plain data."""
        return {
            "measure": self.name,
            "unit": self.unit.name,
            "ours": list(self.ours),
            "reference": list(self.reference),
            "ratio": round(self.ratio, 4),
            "bound": self.bound,
            "verdict": self.verdict,
        }


def in_turns(what: str, sides: Mapping[str, Callable[[], float]], rounds: int, warm: int) -> dict[str, list[float]]:
    """Durations of every side, `rounds` of each, after `warm` rounds that don't count.

    A side is a function that returns how long what matters took, in seconds: its own preparations don't count. Every
    other round runs backwards, so that no side always comes after the same one.
    """
    taken: dict[str, list[float]] = {name: [] for name in sides}
    order = list(sides)
    for number in range(-warm, rounds):
        say(f"{what}: round {number + 1} of {rounds}" if number >= 0 else f"{what}: warming up")
        for name in order if number % 2 == 0 else reversed(order):
            gc.collect()
            seconds = sides[name]()
            if number >= 0:
                taken[name].append(seconds)
    return taken


def clocked(function: Callable[[], object]) -> float:
    """How long one call takes, in seconds."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def spread(values: tuple[float, ...], unit: Unit) -> str:
    """`812 ms (795-840)`: the median, and the quartiles around it."""
    middle = statistics.median(values)
    name, factor = (unit.name, 1.0) if middle >= 1 else (unit.small, unit.factor)
    if len(values) == 1:
        return f"{_three_digits(middle * factor)} {name}"
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    edges = "-".join(_three_digits(edge * factor) for edge in (low, high))
    return f"{_three_digits(middle * factor)} {name} ({edges})"


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(measures: list[Measure]) -> str:
    """All measures as lines of text."""
    head = ("measure", "ours", "reference", "ratio", "bound", "verdict")
    rows: list[tuple[str, ...]] = [head]
    for one in measures:
        bound = "-" if one.bound is None else f"{one.bound:.2f}"
        sides = (spread(one.ours, one.unit), spread(one.reference, one.unit))
        rows.append((one.name, *sides, f"{one.ratio:.3f}", bound, one.verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    rows.insert(1, tuple("-" * width for width in widths))
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def say(text: str) -> None:
    """Tell how far it is; on a terminal each line takes the place of the one before."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
    elif "round" not in text:
        sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@contextlib.contextmanager
def own_place() -> Iterator[Path]:
    """A new folder, removed afterwards, where this process and its children keep all that Jupyter keeps.

    The user's own kernels, settings and store are neither seen nor touched. The home folder stays the user's: pip's
    and git's configuration in it say how this machine reaches the network.
    """
    work = Path(tempfile.mkdtemp(prefix="sepal-bench-"))
    for name in [name for name in os.environ if name.startswith(("JUPYTER", "SEPAL_")) and name != "SEPAL_TEST_CACHE"]:
        del os.environ[name]
    os.environ |= {name: str(work / folder) for name, folder in _OWN_PLACES.items()}
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
