"""One look for all: what changed since the last one, told to browsers, to Jupyter's event log and to the metrics."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..progress import Progress
from .views import View, Views

BUSY, IDLE = 1.0, 2.0  # seconds between two looks: while somebody looks on or anything is built, and else
PROGRESS_EVERY = 1.0  # seconds between two reports of one build
KILLED = "build-killed"


@dataclass(frozen=True)
class Change:
    """One thing that happened. `kind` is started, progressed or ended (of a build; then there is a `progress`),
    kernel (its state or version is another one) or removed. `result` of an ended build is `ok` or an error's code."""

    kind: str
    name: str
    view: View
    progress: Progress | None = None
    result: str = ""


@dataclass(frozen=True)
class _Running:
    """A build that was seen: how far it was, when that was last told, and whether it seemed dead at the last look."""

    view: View
    progress: Progress
    told: float
    silent: bool = False


class Comparison:
    """What is different from the last look. Holds no clock, no task and no socket."""

    def __init__(self) -> None:
        self._first = True
        self._views: dict[str, View] = {}
        self._ended: dict[tuple[str, str], float] = {}  # when the last build that was told of began
        self._running: dict[tuple[str, str], _Running] = {}

    @property
    def building(self) -> bool:
        """Whether anything is being built."""
        return bool(self._running)

    def missing(self, views: dict[str, View]) -> list[View]:
        """Builds that run although the index names that version no longer: they have to be looked at as well."""
        known = {(name, view.kernel.fingerprint) for name, view in views.items()}
        return [running.view for key, running in self._running.items() if key not in known]

    def changes(self, views: dict[str, View], others: list[View], now: float) -> list[Change]:
        """What happened between the last look and this one. `others` are what `missing` asked for."""
        found: list[Change] = []
        for view in (*views.values(), *others):
            found += self._build_changes(view, now)
        for name, view in views.items():
            before = self._views.get(name)
            if not self._first and (before is None or _face(before) != _face(view)):
                found.append(Change("kernel", name, view))
        found += [Change("removed", name, view) for name, view in self._views.items() if name not in views]
        self._views, self._first = views, False
        return found

    def _build_changes(self, view: View, now: float) -> list[Change]:
        name, progress = view.kernel.name, view.progress
        key = (name, view.kernel.fingerprint)
        running = self._running.get(key)
        if progress is None:
            return []
        found: list[Change] = []
        if running and running.progress.started != progress.started:  # killed, and somebody has started it again
            found.append(Change("ended", name, running.view, running.progress, KILLED))
            del self._running[key]
            running = None
        if running is None:
            if self._ended.get(key) == progress.started:
                return found
            if self._first and (progress.ended or not view.building):
                self._ended[key] = progress.started
                return found
            found.append(Change("started", name, view, progress))
            running = self._running[key] = _Running(view, progress, now)
        if progress.ended:
            found.append(Change("ended", name, view, progress, progress.error or "ok"))
        elif view.building:
            told = running.told
            if progress.updated != running.progress.updated and now - told >= PROGRESS_EVERY:
                found.append(Change("progressed", name, view, progress))
                told = now
            self._running[key] = _Running(view, progress, told)
            return found
        elif not running.silent:
            # Its end may be written between our looks at the file and at the lock: look once more.
            self._running[key] = replace(running, view=view, progress=progress, silent=True)
            return found
        else:
            found.append(Change("ended", name, view, progress, KILLED))
        self._ended[key] = progress.started
        del self._running[key]
        return found


def _face(view: View) -> tuple[Any, ...]:
    """What a person sees of a kernel, progress left out."""
    environment = view.environment
    failure = environment.failure.code if environment.failure else ""
    return (
        view.kernel,
        environment.state,
        view.building,
        environment.ready,
        environment.rolled_back,
        failure,
        view.versions,
    )


class Watch:
    """The task that looks, and those who listen. It lives on the server's event loop, and looks in a thread."""

    def __init__(self, views: Views, before: Callable[[], None], log: logging.Logger) -> None:
        self._views, self._before, self._log = views, before, log
        self._comparison = Comparison()
        self._listeners: list[Callable[[list[Change], dict[str, View]], None]] = []
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.attended = 0  # how many browsers look on

    def listen(self, listener: Callable[[list[Change], dict[str, View]], None]) -> None:
        """Call `listener` on the event loop after every look, with what changed and all that is there."""
        self._listeners.append(listener)

    def start(self) -> None:
        """Begin to look. Called on the event loop."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End, and wait for it."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def poke(self) -> None:
        """Look now: something was done. Called on the event loop."""
        self._wake.set()

    async def _run(self) -> None:
        said = ""
        while True:
            self._wake.clear()
            try:
                await self._look()
            except Exception as error:  # noqa: BLE001 - the edge of this task: the next look may be better
                if str(error) != said:
                    self._log.warning("sepal: the kernels can't be watched", exc_info=True)
                said = str(error)
            busy = self.attended or self._comparison.building
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._wake.wait(), BUSY if busy else IDLE)

    async def _look(self) -> None:
        changes, views = await asyncio.get_running_loop().run_in_executor(None, self._look_in_thread)
        for listener in self._listeners:
            listener(changes, views)

    def _look_in_thread(self) -> tuple[list[Change], dict[str, View]]:
        self._before()
        views = self._views.look()
        others = [self._views.observe(view.kernel) for view in self._comparison.missing(views)]
        return self._comparison.changes(views, others, time.monotonic()), views
