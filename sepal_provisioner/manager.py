"""Jupyter's list of kernels, with the catalog's among them."""

from __future__ import annotations

import difflib
import os
import time
from typing import Any

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel
from traitlets import Instance, default
from traitlets.utils.importstring import import_item

from .generation import Record
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
        self._stores = [_WatchedStore(s) for s in Stores.of(self.settings.store, self.settings.search_stores)]
        self._waited = False

    # ------------------------------------------------------------------------------------- what Jupyter calls

    def find_kernel_specs(self) -> dict[str, str]:
        """Name to resource folder, ours and the others'. Called for listings and by subclasses."""
        theirs = self.others.find_kernel_specs() if self.others else super().find_kernel_specs()
        ours = {name: store.resources(kernel) for name, (store, kernel) in self._kernels(listing=True).items()}
        return {**theirs, **ours}

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """The spec of one kernel, looked up in any case. Called when a kernel is started; raises NoSuchKernel."""
        name = kernel_name.lower()
        if found := self._kernels().get(name):
            store, kernel = found
            return self.kernel_spec_class(resource_dir=store.resources(kernel), **self._spec(kernel))
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
            name: {"resource_dir": store.resources(kernel), "spec": self._spec(kernel)}
            for name, (store, kernel) in listed.items()
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

    def _kernels(self, *, listing: bool = False) -> dict[str, tuple[_WatchedStore, Kernel]]:
        """Name to (store, kernel), of the first store that has it. A listing starts the background refresh.

        Only those that `allowed_kernelspecs` allows, if it names any.
        """
        if listing and self.refresher.start() and not self._waited:
            self._waited = True
            if not any(store.look().kernels for store in self._stores):
                self.refresher.wait_for_first(self.settings.first_sync_wait)
        found: dict[str, tuple[_WatchedStore, Kernel]] = {}
        for store in self._stores:
            index = store.look()
            if fault := store.new_fault():
                self.log.warning("sepal: the kernels of %s can't be listed anew: %s", store.root, fault)
            for kernel in index.kernels:
                found.setdefault(kernel.name, (store, kernel))
        if allowed := self.allowed_kernelspecs:
            return {name: kernel for name, kernel in found.items() if name in allowed}
        return found

    def _spec(self, kernel: Kernel) -> dict[str, Any]:
        return kernel_spec(kernel, _best([store.view(kernel) for store in self._stores]).description())

    def _say_missing(self, name: str) -> None:
        """Clients such as Voilà silently take another kernel when one is missing: then the log must tell."""
        if name.startswith("venv-"):
            near = difflib.get_close_matches(name, self._kernels(), n=1)
            self.log.warning(
                "sepal: no catalog names a kernel %r%s; a client may silently use another one",
                name,
                f" (did it mean {near[0]!r}?)" if near else "",
            )


class _WatchedStore:
    """A store's index and what is built of it, read again when the file or the folder is another one."""

    def __init__(self, store: Store) -> None:
        self.root = store.root
        self._store = store
        self._index_path, self._resources = os.fspath(store.index_path), os.fspath(store.resources)
        self._seen: tuple[int, int, int] | None = None
        self._index = Index()
        self._fault = ""
        self._environments = os.fspath(store.folder("any").parent)
        self._present: frozenset[str] = frozenset()
        self._views: dict[str, _View] = {}

    def look(self) -> Index:
        """The newest index that could be read; it is always replaced, never changed. `view` is as of the last look."""
        self._present = _names(self._environments)
        try:
            status = os.stat(self._index_path)
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

    def resources(self, kernel: Kernel) -> str:
        """The folder of a kernel's logos."""
        return f"{self._resources}/{kernel.resources}" if kernel.resources else str(RESOURCES)

    def view(self, kernel: Kernel) -> _View:
        """What is there for a kernel now."""
        changed = _changed(f"{self._environments}/{kernel.name}") if kernel.name in self._present else 0.0
        view = self._views.get(kernel.name)
        if view is None or not view.holds(kernel, changed):
            view = self._views[kernel.name] = _View(self._store, kernel, changed)
        return view

    def new_fault(self) -> str:
        """Why the newest file could not be read; told once."""
        fault, self._fault = self._fault, ""
        return fault


class _View:
    """What a store holds for a kernel, for as long as the folder of its environments is unchanged."""

    def __init__(self, store: Store, kernel: Kernel, changed: float) -> None:
        self._kernel, self._changed = kernel, changed
        environment = store.observe(kernel.name, kernel.fingerprint)
        self.state = environment.state
        record: Record | None = None
        if environment.ready:
            try:
                record = environment.ready.record()
            except (OSError, ValueError):
                self.state = State.FAILED
        found = (record.size, record.built, record.seconds) if record else ()
        self._description = describe(kernel, self.state.value, *found)
        # While somebody builds, the end may come without a change of the folder (a killed build frees its lock).
        self._steady = self.state is not State.BUILDING and time.time() - changed > _SETTLED

    def holds(self, kernel: Kernel, changed: float) -> bool:
        """Whether this is still what there is to say. A sync makes new values, mostly of the same content."""
        return self._steady and changed == self._changed and (kernel is self._kernel or kernel == self._kernel)

    def description(self) -> dict[str, Any]:
        """Our part of the kernel spec's metadata, made anew: its receiver may change it."""
        last = self._description["last_build"]
        return {**self._description, "last_build": last and {**last}}


def _best(views: list[_View]) -> _View:
    """A ready prefix wherever it is, then a running build, then what the writable store says."""
    for wanted in (State.READY, State.BUILDING):
        for view in views:
            if view.state is wanted:
                return view
    return views[-1]


def _names(folder: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except OSError:
        return frozenset()


def _changed(folder: str) -> float:
    try:
        return os.stat(folder).st_mtime
    except OSError:
        return 0.0
