"""What people may do through the API: the same calls as `jupyter sepal`, none of which the event loop may wait for."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import process, prune, sync
from ..builds import Build, cancel_build, request_build
from ..catalog import text_without_credentials
from ..commands.log import log_path
from ..commands.prune import item_document
from ..errors import BusyError, SepalError, SettingsError, StoreReadOnlyError, UnknownKernelError
from ..prune import Item
from ..rollback import roll_back
from ..settings import Sepal
from ..store import Stores
from .views import Views

PLAN_SECONDS = 30.0  # for which a plan is shown again instead of being made anew: it measures every file
SYNC_SECONDS = 1800
LOG_DEFAULT, LOG_LIMIT = 65_536, 1_000_000  # bytes of a log in one answer
SAID_LIMIT = 4_000  # characters of what a sync said


class Actions:
    """The verbs. Every method may block: handlers call them in threads."""

    def __init__(self, settings: Sepal, views: Views) -> None:
        self._settings, self._views = settings, views
        self.stores: Stores = views.stores
        self._lock = threading.Lock()
        self._builds: dict[str, Build] = {}
        self._planning, self._pruning, self._syncing = threading.Lock(), threading.Lock(), threading.Lock()
        self._plan: tuple[float, list[Item]] = (0.0, [])
        self._synced = ""

    # -------------------------------------------------------------------------------------------------- builds

    def build(self, name: str, *, force: bool = False) -> dict[str, Any]:
        """Start a build, or join the one that runs; `started` is false when there is nothing to do or it ran before."""
        kernel = self._views.find(name).kernel
        with self._lock:
            if kernel.name in self._builds:
                return {"name": kernel.name, "state": "building", "started": False}
            found = request_build(self.stores, kernel.name, self._settings, force=force)
            if not isinstance(found, Build):
                return {"name": kernel.name, "state": "ready", "started": False}
            found.step()
            self._builds[kernel.name] = found
            return {"name": kernel.name, "state": "building", "started": found.ours}

    def step(self) -> None:
        """Look after the builds that were started here: one that was killed is started again. Called now and then."""
        with self._lock:
            for name, build in list(self._builds.items()):
                try:
                    if build.step() is not None:
                        del self._builds[name]
                except SepalError:  # whoever looks at the kernel is told
                    del self._builds[name]

    def cancel(self, name: str) -> dict[str, Any]:
        """Stop a build; `cancelled` is false when there is none."""
        kernel = self._views.find(name).kernel
        self._check_writable()
        with self._lock:
            self._builds.pop(kernel.name, None)
        return {"name": kernel.name, "cancelled": cancel_build(self.stores.own, kernel)}

    def rollback(self, name: str, *, undo: bool = False) -> dict[str, Any]:
        """Use the version before, or the newest again."""
        kernel = self._views.find(name).kernel
        target = roll_back(self.stores, kernel, undo=undo)
        return {"name": kernel.name, "prefix": str(target.path) if target else None}

    def log(self, name: str, offset: int | None, limit: int) -> dict[str, Any]:
        """A piece of the last build's log: `limit` bytes from `offset`, or the last ones. `next` is where to go on."""
        view = self._views.find(name)
        path = log_path(view.environment, view.kernel.name, view.kernel.fingerprint)
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
                info = os.fstat(stream.fileno())
                if not stat.S_ISREG(info.st_mode):  # a FIFO would hold the thread for ever
                    raise OSError("it is not a regular file")
                size = info.st_size
                begin = min(max(size - limit, 0) if offset is None else offset, size)
                stream.seek(begin)
                data = stream.read(limit)
        except OSError:
            raise UnknownKernelError(f"{view.kernel.name} has no log: it was never built.") from None
        return {
            "name": view.kernel.name,
            "state": view.environment.state.value,
            "size": size,
            "offset": begin,
            "next": begin + len(data),
            "text": data.decode(errors="replace"),
        }

    # --------------------------------------------------------------------------------------------------- prune

    def plan(self) -> dict[str, Any]:
        """What a prune would remove, and why the rest stays."""
        return self._plan_document(self._planned())

    def prune(self, paths: Collection[str] | None = None) -> dict[str, Any]:
        """Remove what the plan says now, and of that only `paths` where somebody has confirmed them.

        Raises BusyError while a prune runs.
        """
        self._check_writable()
        if not self._pruning.acquire(blocking=False):
            raise BusyError("A prune is running. Wait until it is done.")
        try:
            items = prune.plan(self.stores.own, self._settings)
            if paths is not None:
                wanted = set(paths)
                items = [item for item in items if _confirmed_as(item) in wanted]
            done = list(prune.apply(self.stores.own, items))
        finally:
            self._plan = (0.0, [])
            self._pruning.release()
        return self._plan_document(done)

    def _planned(self) -> list[Item]:
        with self._planning:
            made, items = self._plan
            if time.monotonic() - made > PLAN_SECONDS or not made:
                items = prune.plan(self.stores.own, self._settings)
                self._plan = (time.monotonic(), items)
            return items

    def _plan_document(self, items: Iterable[Item]) -> dict[str, Any]:
        shown = [item_document(item) for item in _grouped(items)]
        freed = sum(item["size"] for item in shown if item["remove"])
        return {"store": str(self.stores.own.root), "freed": freed, "items": shown}

    # ---------------------------------------------------------------------------------------------------- sync

    def begin_sync(self) -> None:
        """Check that a sync may run. Raises SettingsError, StoreReadOnlyError, and BusyError while one runs."""
        if not self._settings.catalogs:
            raise SettingsError("No catalog is configured: set c.Sepal.catalogs in jupyter_server_config.py.")
        self._check_writable()
        if not self._syncing.acquire(blocking=False):
            raise BusyError("A sync is running. Wait until it is done.")

    def run_sync(self, on_end: Callable[[], None] = lambda: None) -> None:
        """The sync that `begin_sync` allowed; takes as long as the catalogs do. `on_end` is called when it is over."""
        try:
            done = process.run(sync.command(self._settings), timeout=SYNC_SECONDS)
            self._synced = text_without_credentials(done.stderr.strip())[:SAID_LIMIT]
        except (SepalError, OSError) as error:
            self._synced = text_without_credentials(str(error))[:SAID_LIMIT]
        finally:
            self._syncing.release()
            on_end()

    def sync_state(self) -> dict[str, Any]:
        """Whether a sync that was asked for here runs, when the index was last written, and what went wrong."""
        index = self._views.index(self.stores.own)
        problems = [{"place": problem.place, "message": problem.message} for problem in index.problems[:100]]
        return {
            "running": self._syncing.locked(),
            "synced": index.written or None,
            "said": self._synced or None,
            "problems": problems,
        }

    def _check_writable(self) -> None:
        if not self.stores.own.writable():
            whom = self._settings.contact or "whoever administers it"
            raise StoreReadOnlyError(f"{self.stores.own.root} can't be changed: you may not write there. Ask {whom}.")


def _confirmed_as(item: Item) -> str:
    """The path under which a person has confirmed it: packages are shown by the folder that they lie in."""
    return str(item.path.parent if item.kind == "package" else item.path)


def _grouped(items: Iterable[Item]) -> list[Item]:
    """Packages are many and alike: one item for each folder, fate and reason."""
    shown: list[Item] = []
    packages: dict[tuple[Path, bool, str], list[Item]] = defaultdict(list)
    for item in items:
        if item.kind == "package":
            packages[(item.path.parent, item.remove, item.reason)].append(item)
        else:
            shown.append(item)
    for (folder, _, reason), same in packages.items():
        size = sum(item.size for item in same)
        shown.append(replace(same[0], path=folder, size=size, reason=f"{len(same)} unpacked: {reason}"))
    return shown
