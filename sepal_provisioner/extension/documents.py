"""What the API says of a kernel, as plain data. Times are seconds since the epoch, sizes bytes."""

from __future__ import annotations

from typing import Any

from ..commands.command import error_document
from ..commands.list import kernel_document
from ..files import is_number
from ..generation import Record
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
        "build": _build(view.record),
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


def _build(record: Record | None) -> dict[str, Any] | None:
    if record is None:
        return None
    return {
        "engine": record.engine,
        "built": record.built,
        "seconds": record.seconds,
        "size": record.size,
        "commit": record.commit,
        "user": record.user,
        "host": record.host,
        "packages": len(record.packages),
        "durations": {name: value for name, value in record.durations.items() if is_number(value)},
    }


def _failure(view: View, settings: Sepal) -> dict[str, Any] | None:
    failure, progress = view.environment.failure, view.environment.progress
    if failure is None or progress is None:
        return None
    return {
        **error_document(failure),
        "detail": failure.detail[-DETAIL:],
        "when": progress.ended or progress.updated,
        "attempts": max(int(progress.attempt), 1),
        "retry_at": progress.retry_at(settings.retry_after) or None,
    }
