"""What is shown under the cells that wait: one display each, updated in place, and cleared before the cell runs."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from typing import Any

from . import display
from .held import Held
from .wire import Wire

DRAW_EVERY = 1.0  # seconds between two drawings of an unchanged build: the elapsed time goes on
DRAW_AT_MOST_EVERY = 0.4


class Screen:
    """The displays of one waiting kernel. A cell's own is named in its `shown`."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._drawn = (0.0, 0.0)  # when, and which progress (its `updated`)

    def show(self, cell: Held, view: display.View, position: int) -> None:
        """Show the build under a cell that has just been held, or a quiet line with its position among them."""
        cell.shown = uuid.uuid4().hex
        bundle = display.progress_bundle(view) if cell.first else display.queued_bundle(position)
        self._publish("display_data", bundle, cell.header, cell.shown)

    def draw(self, cells: Iterable[Held], view: display.View) -> None:
        """Update the first cell of each client when there is something new, and once a second for the time."""
        now = time.monotonic()
        updated = view.progress.updated if view.progress is not None else 0.0
        wait = DRAW_AT_MOST_EVERY if updated != self._drawn[1] else DRAW_EVERY
        drawn = [cell for cell in cells if cell.first and cell.shown]
        if not drawn or now - self._drawn[0] < wait:
            return
        self._drawn = (now, updated)
        bundle = display.progress_bundle(view)
        for cell in drawn:
            self._publish("update_display_data", bundle, cell.header, cell.shown)

    def clear(self, cell: Held) -> None:
        """Take away what is shown under a cell."""
        if cell.shown:
            self._wire.publish("clear_output", {"wait": False}, cell.header)
            cell.shown = ""

    def remark(self, header: dict[str, Any], sentence: str) -> None:
        """A quiet line above the output of the cell with this header, which stays."""
        self._publish("display_data", display.notice_bundle(sentence), header)

    def _publish(self, kind: str, bundle: display.Bundle, header: dict[str, Any], shown: str = "") -> None:
        transient = {"display_id": shown} if shown else {}
        self._wire.publish(kind, {"data": bundle, "metadata": {}, "transient": transient}, header)
