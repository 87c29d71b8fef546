"""Requests that wait for an environment, in the order in which they came, bounded in number and bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .wire import Frames

HELD_LIMIT = 1_000  # requests
HELD_BYTES = 100_000_000


@dataclass
class Held:
    """A request that waits: its frames as they came, and what it shows if it is a cell."""

    frames: Frames
    identities: list[bytes]
    header: dict[str, Any]
    kind: str
    on_control: bool
    visible: bool = False
    shown: str = ""  # the display's id, once something is shown under the cell
    first: bool = False

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(map(len, self.frames))


@dataclass
class Queue:
    """The held requests, first come first."""

    requests: list[Held] = field(default_factory=list)

    def full_with(self, held: Held) -> bool:
        """Whether there is no room for one more."""
        return len(self.requests) >= HELD_LIMIT or held.size + sum(r.size for r in self.requests) > HELD_BYTES

    def cells(self) -> list[Held]:
        """The held cells."""
        return [held for held in self.requests if held.kind == "execute_request"]

    def take_cells(self) -> list[Held]:
        """Remove and return the held cells."""
        cells = self.cells()
        self.requests = [held for held in self.requests if held.kind != "execute_request"]
        return cells


def is_visible(message: Mapping[str, Any]) -> bool:
    """Whether a request is a cell that shows something."""
    return message["msg_type"] == "execute_request" and not message["content"].get("silent", False)
