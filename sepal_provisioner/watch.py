"""The daemon that keeps a store up to date: sync, build what is not ready, prune, and again.

One loop that never blocks: the sync is a process of its own, so are the builds, and a prune is a thread. It therefore
ends at once when it is asked to, and leaves running builds to finish. What it does stands in `<store>/watch.json`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import disk_usage
from typing import Any

from . import locks, metrics
from .errors import ChangedError, PolicyError, SepalError, StoreError
from .files import human_size, human_time, set_umask, write_json
from .index import Index, Kernel
from .notify import Notifier
from .policy import check_pinned
from .pool import Pool, Result
from .prune import apply, plan
from .refresh import SyncProcess
from .settings import Sepal
from .store import Environment, State, Store, Stores, make_store
from .watchfile import Doing, Status, lock_path, status_path

TICK = 0.2  # seconds
LOOK_EVERY = 30  # seconds between two looks for what could be built, besides the one after each sync
METRICS_EVERY = 15  # seconds
LONGEST_PAUSE = 3600  # seconds, after syncs that failed
PRUNE_EVERY = 86_400  # seconds, when nothing was built meanwhile


class Watch:
    """One watch of one store. `run` returns when `stop` is set."""

    def __init__(
        self,
        settings: Sepal,
        say: Callable[[str], None],
        notifier: Notifier,
        *,
        interval: float,
        jobs: int,
        prune: bool,
        metrics_file: Path | None = None,
    ) -> None:
        self._settings, self._say, self._notifier = settings, say, notifier
        self._interval, self._prune = interval, prune
        self._store = make_store(settings)
        self._stores = Stores.of(settings.store, settings.search_stores)
        self._pool = Pool(self._stores, settings, jobs, remember_failures=True)
        self._sync: SyncProcess | None = None
        self._before = Index()
        self._tried = False  # a sync has ended, well or not
        self._pruning: threading.Thread | None = None
        self._failed_syncs = 0
        self._next_look = 0.0
        self._next_prune = 0.0
        self._metrics_file, self._next_metrics = metrics_file, 0.0
        self._said: dict[str, str] = {}
        self.stop = threading.Event()
        self.status = Status(os.getpid(), socket.gethostname(), time.time())

    def run(self) -> None:
        """Watch until `stop` is set. Raises BusyError where another one runs, and StoreError."""
        if not self._store.writable():
            raise StoreError(f"{self._store.root} can't be kept up to date: you may not write there.")
        set_umask(self._store.root)
        another = f"Another `jupyter sepal watch` of {self._store.root} is running"
        with locks.exclusive(lock_path(self._store), timeout=0, waiting_for=another):
            self._say(f"watching {self._store.root}: a sync every {human_time(self._interval)}")
            self._tell(Doing.SYNC)
            self._notifier.tell("READY=1")
            try:
                while not self.stop.is_set():
                    self._step()
                    self._notifier.alive()
                    self.stop.wait(TICK)
            finally:
                self._end()

    def _step(self) -> None:
        now = time.time()
        for result in self._pool.step():
            self._ended(result)
        if self._sync is not None:
            if (failure := self._sync.step()) is not None:
                self._synced(failure)
        elif now >= self.status.next_sync and not self._pruning_now():
            self._before = _index(self._store)
            self._sync = SyncProcess(self._settings, self._store)
        if now >= self._next_look and self._tried:
            self._next_look = now + LOOK_EVERY
            for name in self._wanted():
                self._pool.add(name)
        quiet = self._sync is None and not self._pool.busy and self._tried
        if self._prune and quiet and now >= self._next_prune and not self._pruning_now():
            self._next_prune = now + PRUNE_EVERY
            self._pruning = threading.Thread(target=self._clean, name="sepal-prune", daemon=True)
            self._pruning.start()
        self._tell(self._doing())
        if self._metrics_file is not None and now >= self._next_metrics:
            self._next_metrics = now + METRICS_EVERY
            self._measure(self._metrics_file)

    def _measure(self, path: Path) -> None:
        """Write the metrics: what has been counted, and what there is now."""
        views = [self._stores.observe(kernel) for _, kernel in self._stores.kernels()]
        states = Counter(view.state.value for view in views)
        size = 0
        for view in views:
            with contextlib.suppress(OSError, ValueError):
                size += view.ready.record().size if view.ready else 0
        try:
            metrics.stock(
                {state.value: states[state.value] for state in State}, size, disk_usage(self._store.root).free
            )
            metrics.write(path)
        except OSError as error:
            self._say_once("metrics", f"{path} can't be written: {error.strerror}")

    def _doing(self) -> Doing:
        if self._pool.running:
            return Doing.BUILD
        if self._sync is not None:
            return Doing.SYNC
        return Doing.PRUNE if self._pruning_now() else Doing.IDLE

    def _tell(self, doing: Doing, **changes: Any) -> None:
        """Let everybody know what has changed."""
        status = replace(self.status, state=doing, building=self._pool.running, **changes)
        if status != self.status or not status_path(self._store).exists():
            self.status = status
            self._notifier.tell(f"STATUS={status.sentence()}")
            try:
                write_json(status_path(self._store), status.document())
            except SepalError as error:  # a full disk: what can be done about it is not done here
                self._say_once("watch.json", error.message)

    def _synced(self, failure: str) -> None:
        """A sync has ended: say what it changed, and when the next one is."""
        self._sync, self._tried = None, True
        now, index = time.time(), _index(self._store)
        unread = [state.error for state in index.catalogs if state.error]
        if not failure and unread and len(unread) == len(index.catalogs):
            failure = unread[0]
        if failure:
            self._failed_syncs += 1
            pause = min(self._interval * 2.0 ** min(self._failed_syncs, 10), max(LONGEST_PAUSE, self._interval))
            self._say_once("sync", f"the sync failed: {failure}")
            self._tell(self._doing(), next_sync=now + pause, last_error=failure)
            return
        self._failed_syncs, self._next_look = 0, 0
        self._said.pop("sync", None)
        old, new = ({k.name: k.fingerprint for k in one.kernels} for one in (self._before, index))
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                self._next_prune = 0
                self._say(f"{name}: {'new' if name not in old else 'gone' if name not in new else 'changed'}")
        for problem in index.problems:
            self._say_once(f"problem {problem.place}", str(problem))
        self._tell(
            self._doing(), last_sync=index.written or now, next_sync=now + self._interval, problems=len(index.problems)
        )

    def _wanted(self) -> list[str]:
        """What may be built now; first what somebody builds already, which counts among the jobs."""
        found = [(kernel, self._stores.observe(kernel)) for _, kernel in self._stores.kernels()]
        wanted = [(kernel, environment) for kernel, environment in found if self._due(kernel, environment)]
        return [kernel.name for kernel, _ in sorted(wanted, key=lambda pair: pair[1].state is not State.BUILDING)]

    def _due(self, kernel: Kernel, environment: Environment) -> bool:
        """Whether a build makes sense now: not when it is ready, has just failed, or is not allowed."""
        if environment.state is State.READY:
            return False
        try:
            check_pinned(kernel, self._settings)
        except PolicyError as error:
            self._say_once(kernel.name, error.message)
            return False
        if environment.failure is None or environment.progress is None:
            return True
        if isinstance(environment.failure, ChangedError):  # until a sync has seen the change, too, it would fail again
            return environment.progress.ended < self.status.last_sync
        return environment.progress.retry_at(self._settings.retry_after) <= time.time()

    def _ended(self, result: Result) -> None:
        if result.built or result.error:
            self._next_metrics = 0
            progress = self._stores.observe(self._stores.find(result.name)[1]).progress
            metrics.built(result.error.code if result.error else "ok", progress.durations if progress else {})
        if result.error:
            again = "" if self.stop.is_set() else f" (jupyter sepal log {result.name})"
            self._say_once(result.name, f"{result.name}: [{result.error.code}] {result.error.message}{again}")
            self._tell(self.status.state, last_error=f"{result.name}: {result.error.message}")
        elif result.built:
            self._said.pop(result.name, None)
            self._next_prune = 0
            self._say(f"{result.name}: ready after {human_time(result.seconds)}, {human_size(result.size)}")

    def _pruning_now(self) -> bool:
        return self._pruning is not None and self._pruning.is_alive()

    def _clean(self) -> None:
        """Prune, one thing after the other, until it is done or somebody wants us to stop. Runs in a thread."""
        try:
            for item in apply(self._store, plan(self._store, self._settings)):
                if item.remove:
                    self._say(f"removed {item.path} ({item.reason})")
                if self.stop.is_set():
                    return
        except (SepalError, OSError) as error:
            self._say_once("prune", f"the prune ended early: {error}")

    def _say_once(self, about: str, text: str) -> None:
        """Say what has not been said of this already: the same problem every five minutes would hide all others."""
        if self._said.get(about) != text:
            self._said[about] = text
            self._say(text)

    def _end(self) -> None:
        self._notifier.tell("STOPPING=1")
        if self._sync is not None:
            self._sync.stop()
        if running := self._pool.running:
            self._say(
                f"stopped; {len(running)} builds go on: {', '.join(running)}. `jupyter sepal status NAME` "
                "shows one, `jupyter sepal cancel NAME` ends it"
            )
        else:
            self._say("stopped")
        self._tell(Doing.STOPPED)


def _index(store: Store) -> Index:
    try:
        return store.index()
    except ValueError:
        return Index()
