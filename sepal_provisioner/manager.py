"""Jupyter's list of kernels, with the catalog's among them."""

from __future__ import annotations

import difflib
import os
import time
from typing import Any

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel
from traitlets import Instance, default
from traitlets.utils.importstring import import_item

from .index import Index, Kernel
from .kernelspec import RESOURCES, describe, kernel_spec
from .refresh import Refresher
from .settings import Sepal
from .store import State, Store, Stores

_SETTLED = 2.0  # seconds: a folder changed more recently than this may change again within the clock's grain


class SepalKernelSpecManager(KernelSpecManager):
    """Lists the catalog's kernels besides those that another manager finds.

    The server calls it for every look at the launcher: no request touches the network, git or a process. What can be
    read from the store is remembered for exactly as long as the file or folder that it came from is unchanged.
    """

    settings = Instance(Sepal)
    refresher = Instance(Refresher)
    others = Instance(KernelSpecManager, allow_none=True)

    @default("settings")
    def _settings_default(self) -> Sepal:
        return Sepal(parent=self)

    @default("refresher")
    def _refresher_default(self) -> Refresher:
        return Refresher(self.settings, self.log)

    @default("others")
    def _others_default(self) -> KernelSpecManager | None:
        """The other manager that a setting names; None means our own base class."""
        name = self.settings.kernel_spec_manager_class
        if not name:
            return None
        manager: KernelSpecManager = import_item(name)(parent=self.parent, config=self.config)
        return manager

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._stores = Stores.of(self.settings.store, self.settings.search_stores)
        self._indexes = {store: _WatchedIndex(store) for store in self._stores}
        self._views: dict[tuple[Store, str, str], _View] = {}
        self._waited = False

    # ------------------------------------------------------------------------------------- what Jupyter calls

    def find_kernel_specs(self) -> dict[str, str]:
        """Name to resource folder, ours and the others'. Called for listings and by subclasses."""
        theirs = self.others.find_kernel_specs() if self.others else super().find_kernel_specs()
        ours = {name: _resources(store, kernel) for name, (store, kernel) in self._kernels(listing=True).items()}
        return {**theirs, **{name: folder for name, folder in ours.items() if self._allowed(name)}}

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """The spec of one kernel, looked up in any case. Called when a kernel is started; raises NoSuchKernel."""
        name = kernel_name.lower()
        found = self._kernels().get(name)
        if found and self._allowed(name):
            return self.kernel_spec_class(resource_dir=_resources(*found), **self._spec(*found))
        try:
            theirs: KernelSpec = (
                self.others.get_kernel_spec(kernel_name) if self.others else super().get_kernel_spec(kernel_name)
            )
        except NoSuchKernel:
            self._say_missing(name)
            raise
        return theirs

    def get_all_specs(self) -> dict[str, Any]:
        """Every spec as plain data, ours without a KernelSpec object each. Called for every look at the launcher."""
        # The base class would go through `self`: ask it, or the other manager, for its own kernels only.
        listed = self._kernels(listing=True)
        theirs = self.others.get_all_specs() if self.others else self._stock_specs(set(listed))
        ours = {
            name: {"resource_dir": _resources(*found), "spec": self._spec(*found)}
            for name, found in listed.items()
            if self._allowed(name)
        }
        return {**theirs, **ours}

    # -------------------------------------------------------------------------------------------- our own part

    def _stock_specs(self, ours: set[str]) -> dict[str, Any]:
        specs = {}
        for name, folder in super().find_kernel_specs().items():
            if name in ours:
                continue
            try:
                specs[name] = {"resource_dir": folder, "spec": super().get_kernel_spec(name).to_dict()}
            except NoSuchKernel:
                continue  # said already
            except Exception:
                self.log.warning("Error loading kernelspec %r", name, exc_info=True)
        return specs

    def _allowed(self, name: str) -> bool:
        return not self.allowed_kernelspecs or name in self.allowed_kernelspecs

    def _kernels(self, *, listing: bool = False) -> dict[str, tuple[Store, Kernel]]:
        """Name to (store, kernel), of the first store that has it. A listing starts the background refresh."""
        if listing and self.refresher.start() and not self._waited:
            self._waited = True
            if not any(watched.read().kernels for watched in self._indexes.values()):
                self.refresher.wait_for_first(self.settings.first_sync_wait)
        found: dict[str, tuple[Store, Kernel]] = {}
        for store, watched in self._indexes.items():
            index = watched.read()
            if fault := watched.new_fault():
                self.log.warning("sepal: the kernels of %s can't be listed anew: %s", store.root, fault)
            for kernel in index.kernels:
                found.setdefault(kernel.name, (store, kernel))
        return found

    def _spec(self, store: Store, kernel: Kernel) -> dict[str, Any]:
        views = [self._view(candidate, kernel) for candidate in self._stores]
        best = next((view for view in views if view.state is State.READY), None)
        best = best or next((view for view in views if view.state is State.BUILDING), views[-1])
        return kernel_spec(kernel, describe(kernel, best.state.value, best.size, best.built, best.seconds))

    def _view(self, store: Store, kernel: Kernel) -> _View:
        key = (store, kernel.name, kernel.fingerprint)
        view = self._views.get(key)
        if view is None or not view.holds():
            view = self._views[key] = _View(store, kernel)
        return view

    def _say_missing(self, name: str) -> None:
        """Clients such as Voilà silently take another kernel when one is missing: then the log must tell."""
        if name.startswith("venv-"):
            near = difflib.get_close_matches(name, self._kernels(), n=1)
            self.log.warning(
                "sepal: no catalog names a kernel %r%s; a client may silently use another one",
                name,
                f" (did it mean {near[0]!r}?)" if near else "",
            )


class _WatchedIndex:
    """A store's index, read again when the file is another one: an index is always replaced, never changed."""

    def __init__(self, store: Store) -> None:
        self._path = os.fspath(store.index_path)
        self._store = store
        self._seen: tuple[int, int, int] | None = None
        self._index = Index()
        self._fault = ""

    def read(self) -> Index:
        """The newest index that could be read."""
        try:
            status = os.stat(self._path)
            identity = (status.st_ino, status.st_mtime_ns, status.st_size)
        except OSError:
            return self._index  # not there, or not there for a moment: nothing that was listed is lost
        if identity != self._seen:
            self._seen = identity
            try:
                self._index = self._store.index()
            except ValueError as error:
                self._fault = str(error)
        return self._index

    def new_fault(self) -> str:
        """Why the newest file could not be read; told once."""
        fault, self._fault = self._fault, ""
        return fault


class _View:
    """What a store holds for a kernel, for as long as the folder of its environments is unchanged."""

    def __init__(self, store: Store, kernel: Kernel) -> None:
        self._folder = os.fspath(store.folder(kernel.name))
        self._changed = _changed(self._folder)
        environment = store.observe(kernel.name, kernel.fingerprint)
        self.state = environment.state
        self.size: int | None = None
        self.built: float | None = None
        self.seconds: float | None = None
        if environment.ready:
            try:
                record = environment.ready.record()
                self.size, self.built, self.seconds = record.size, record.built, record.seconds
            except (OSError, ValueError):
                self.state = State.FAILED
        # While somebody builds, the end may come without a change of the folder (a killed build frees its lock).
        self._steady = self.state is not State.BUILDING and time.time() - self._changed > _SETTLED

    def holds(self) -> bool:
        return self._steady and _changed(self._folder) == self._changed


def _changed(folder: str) -> float:
    try:
        return os.stat(folder).st_mtime
    except OSError:
        return 0.0


def _resources(store: Store, kernel: Kernel) -> str:
    return str(store.resources / kernel.resources) if kernel.resources else str(RESOURCES)
