"""`<store>/watch.json`: what the watch of a store does, for whoever monitors it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from . import locks
from .files import read_json
from .store import Store


class Doing(str, Enum):
    """What a watch is at. The value is what `watch.json` says."""

    SYNC = "syncing"
    BUILD = "building"
    PRUNE = "pruning"
    IDLE = "idle"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Status:
    """What `<store>/watch.json` says. Times are seconds since the epoch, 0 for never."""

    pid: int
    host: str
    since: float
    state: Doing = Doing.IDLE
    last_sync: float = 0
    next_sync: float = 0
    problems: int = 0
    building: tuple[str, ...] = ()
    last_error: str = ""

    def document(self) -> dict[str, Any]:
        """The status for scripts: null where there is nothing to say."""
        plain = {**asdict(self), "state": self.state.value, "building": list(self.building)}
        return plain | {name: plain[name] or None for name in ("last_sync", "next_sync", "last_error")}

    def sentence(self) -> str:
        """`building venv-gwb, venv-x; 2 problems`: what a service manager shows."""
        words = f"{self.state.value} {', '.join(self.building)}".strip()
        return f"{words}; {self.problems} problems" if self.problems else words


def status_path(store: Store) -> Path:
    """Where a watch says what it does."""
    return store.root / "watch.json"


def lock_path(store: Store) -> Path:
    """Held by the one watch of a store."""
    return store.root / "watch.lock"


def read_status(store: Store) -> dict[str, Any] | None:
    """What the running or last watch of a store said, or None; `running` is whether it still does."""
    try:
        document = read_json(status_path(store), 1_000_000)
    except (OSError, ValueError):
        return None
    return {**document, "running": locks.held(lock_path(store))} if isinstance(document, dict) else None
