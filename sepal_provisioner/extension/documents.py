"""What the API says of a kernel, as plain data. Times are seconds since the epoch, sizes bytes."""

from __future__ import annotations

from typing import Any

from ..commands.list import build_document, failure_document, kernel_document
from ..progress import Progress
from ..settings import Sepal
from ..uses import last_use
from .holders import Holders
from .views import View

DETAIL = 4_000  # characters of a tool's own words; the log has all of them


def kernel_view(view: View, settings: Sepal, holders: Holders, *, writable: bool) -> dict[str, Any]:
    """One kernel, with all that a page of kernels shows of it."""
    environment = view.environment
    generation = environment.ready or environment.older
    return {
        **kernel_document(view.kernel, environment),
        "problem": view.kernel.problem or None,
        "size": view.record.size if view.record else None,
        "last_used": (last_use(generation, settings) or None) if generation else None,
        "running": holders.running(generation.marker) if generation else 0,
        "writable": writable,
        "rolled_back": environment.rolled_back,
        "versions": view.versions,
        "build": build_document(view.record) if view.record else None,
        "failure": _failure(view, settings),
        "progress": progress_view(view.progress) if view.building else None,
    }


def progress_view(progress: Progress | None) -> dict[str, Any] | None:
    """How far a running or ended build is; `ended` and `error` are null while it runs."""
    if progress is None:
        return None
    return {
        "phase": progress.phase.name.lower(),
        "sentence": progress.sentence(),
        "fraction": round(progress.fraction, 3),
        "done": max(int(progress.done), 0),
        "total": max(int(progress.total), 0),
        "bytes_done": max(int(progress.bytes_done), 0),
        "bytes_total": max(int(progress.bytes_total), 0),
        "started": progress.started,
        "updated": progress.updated,
        "ended": progress.ended or None,
        "previous": progress.previous or None,
        "attempt": max(int(progress.attempt), 1),
        "user": progress.user,
        "host": progress.host,
        "error": progress.error or None,
    }


def _failure(view: View, settings: Sepal) -> dict[str, Any] | None:
    failure = failure_document(view.environment, settings)
    return {**failure, "detail": failure["detail"][-DETAIL:]} if failure else None
