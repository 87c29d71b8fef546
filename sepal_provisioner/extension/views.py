"""What each kernel is like now, read again only where a folder changed: the extension asks every second."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from .. import locks
from ..errors import UnknownKernelError
from ..generation import Generation, Record
from ..index import Index, Kernel
from ..progress import Progress, read_progress
from ..store import Environment, Store, Stores

_SETTLED = 2.0  # seconds: a folder changed more recently than this may change again within the clock's grain


@dataclass(frozen=True)
class View:
    """A kernel, what the stores hold for it, and how that was built.

    `versions` counts its complete prefixes in the writable store: with two or more there is one to go back to.
    `building` also when it is ready and somebody builds it anew; `progress` is that of the running or last build.
    """

    kernel: Kernel
    environment: Environment
    building: bool = False
    progress: Progress | None = None
    record: Record | None = None
    versions: int = 0


class Views:
    """Every kernel's view. Threads of the server share it; `allowed` are the kernels to show, all when it is empty."""

    def __init__(self, stores: Stores, allowed: Collection[str] = ()) -> None:
        self.stores = stores
        self._allowed = frozenset(allowed)
        self._lock = threading.Lock()
        self._indexes: dict[Path, tuple[tuple[int, ...], Index]] = {}
        self._known: dict[str, tuple[tuple[int, ...], View]] = {}

    def look(self) -> dict[str, View]:
        """Name to view, in catalog order."""
        with self._lock:
            kernels: dict[str, Kernel] = {}
            for store in self.stores:
                for kernel in self.index(store).kernels:
                    if not self._allowed or kernel.name in self._allowed:
                        kernels.setdefault(kernel.name, kernel)
            self._known = {name: self._view(kernel) for name, kernel in kernels.items()}
            return {name: view for name, (_, view) in self._known.items()}

    def find(self, name: str) -> View:
        """One kernel's view, by its name in any case. Raises UnknownKernelError."""
        views, wanted = self.look(), name.lower()
        if found := views.get(wanted) or views.get(f"venv-{wanted}"):
            return found
        _, kernel = self.stores.find(name)  # says which there are
        raise UnknownKernelError(f"{kernel.name} is not among the kernels that this server allows.")

    def index(self, store: Store) -> Index:
        """A store's index; the last good one while the file can't be read."""
        identity = _identity(store.index_path)
        last = self._indexes.get(store.root)
        if last is None or last[0] != identity:
            try:
                last = (identity, store.index())
            except ValueError:
                last = (identity, last[1] if last else Index())
            self._indexes[store.root] = last
        return last[1]

    def observe(self, kernel: Kernel) -> View:
        """The view of any kernel, also of one that the index no longer names."""
        environment = self.stores.observe(kernel)
        record = _record(environment.ready or environment.older)
        view = View(kernel, environment, progress=environment.progress, record=record)
        for store in self.stores:
            progress = read_progress(store.beside(kernel.name, kernel.fingerprint, "progress.json"))
            # In this order: a build that ends between the two looks is seen as ended the next time.
            if locks.held(store.beside(kernel.name, kernel.fingerprint, "lock")):
                view = replace(view, building=True, progress=progress)
        return replace(view, versions=len(self.stores.own.complete(kernel.name)))

    def _view(self, kernel: Kernel) -> tuple[tuple[int, ...], View]:
        stamp = tuple(_changed(store.folder(kernel.name)) for store in self.stores)
        last = self._known.get(kernel.name)
        if last and last[0] == stamp and last[1].kernel == kernel:
            return last
        view = self.observe(kernel)
        # A killed build frees its lock without a change of the folder.
        settled = time.time_ns() - max(stamp) > _SETTLED * 1e9
        return (stamp if settled and not view.building else (), view)


def _record(generation: Generation | None) -> Record | None:
    try:
        return generation.record() if generation else None
    except (OSError, ValueError):
        return None


def _changed(folder: Path) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return 0


def _identity(path: Path) -> tuple[int, ...]:
    try:
        info = os.stat(path)
    except OSError:
        return ()
    return (info.st_ino, info.st_mtime_ns, info.st_size)
