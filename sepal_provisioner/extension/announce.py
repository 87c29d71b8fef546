"""Jupyter events and metrics of builds, from the changes that the watch sees."""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from .. import metrics
from ..store import State, Stores
from .views import View
from .watch import Change

SCHEMA = Path(__file__).with_name("event_build_v1.yaml")
SCHEMA_ID = "https://sepal-provisioner.readthedocs.io/events/build/v1"


class Announcer:
    """Tells a server's event logger and metrics what happened to builds, whoever runs them."""

    def __init__(self, event_logger: Any, stores: Stores) -> None:
        self._logger, self._stores = event_logger, stores
        self._free = 0
        event_logger.register_event_schema(SCHEMA)

    def measure(self) -> None:
        """See how much is free: a file system that hangs must not hold the event loop. Called in a thread."""
        folder = self._stores.own.root
        with contextlib.suppress(OSError):
            self._free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.is_dir())).free

    def __call__(self, changes: list[Change], views: dict[str, View]) -> None:
        """Take what one look saw. Called on the event loop."""
        for change in changes:
            if change.progress is not None:
                self._logger.emit(schema_id=SCHEMA_ID, data=_event(change))
            if change.kind == "ended" and change.progress is not None:
                metrics.built(change.result, change.progress.durations)
        counts = Counter(view.environment.state for view in views.values())
        size = sum(view.record.size for view in views.values() if view.record)
        metrics.stock({state.value: counts[state] for state in State}, size, self._free)


def _event(change: Change) -> dict[str, Any]:
    progress, kernel = change.progress, change.view.kernel
    assert progress is not None
    event: dict[str, Any] = {
        "action": change.kind,
        "kernel_name": kernel.name,
        "fingerprint": kernel.fingerprint,
        "commit": kernel.commit,
        "started": progress.started,
        "attempt": max(int(progress.attempt), 1),
        "phase": progress.phase.name.lower(),
        "fraction": round(progress.fraction, 3),
    }
    if change.kind == "ended":
        end = progress.ended or progress.updated
        event |= {"result": change.result, "seconds": max(0.0, round(end - progress.started, 3))}
        event |= {"message": progress.message} if progress.message else {}
    return event
