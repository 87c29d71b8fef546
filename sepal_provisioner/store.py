"""The store: where everything lies, and what can be seen there. State is observed, never recorded.

<store>/
  index.json                                    which kernels there are
  catalogs/                                     last good copies
  apps/<checkout>/                              the repositories
  aside/                                        checkouts with local changes, set aside by a sync
  resources/<kernel>/                           logos
  environments/<kernel>/<fingerprint>-<n>/      a prefix; .sepal/build.json in it is the marker, written last
                        /<fingerprint>.lock     held by who builds it; beside it .progress.json, .log, .request.json
                        /current                a link to the newest ready prefix, for others than kernels
  pkgs/                                         package caches
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from . import locks
from .errors import (
    KilledError,
    PrefixTooLongError,
    SepalError,
    SettingsError,
    StoreReadOnlyError,
    UnknownKernelError,
)
from .files import make_folder, read_json, store_error, writable, write_json
from .generation import Generation
from .index import Index, Kernel, read_index
from .progress import Progress, read_progress
from .settings import Sepal
from .users import user_name

PREFIX_LIMIT = 240  # bytes: conda packages reserve 255 for the prefix, and paths below it need their room

BYTECODE = "bytecode"  # below the package caches: compiled modules that prefixes share

_ROLLBACK = "rollback.json"
_GENERATION = re.compile(r"([0-9a-f]{16})-([1-9][0-9]{0,5})\Z")


class State(str, Enum):
    """What an environment is like right now."""

    READY = "ready"
    BUILDING = "building"
    FAILED = "failed"
    STALE = "stale"  # not ready, but an older fingerprint's prefix is
    MISSING = "missing"


@dataclass(frozen=True)
class Environment:
    """What a store holds for one kernel.

    `ready` is the newest prefix of the wanted fingerprint, or the one that was rolled back to (`rolled_back`), `older`
    the newest of any other, `progress` what the running or last build says of itself, and `failure` why there is no
    prefix.
    """

    state: State
    store: Store
    ready: Generation | None = None
    older: Generation | None = None
    progress: Progress | None = None
    failure: SepalError | None = None
    rolled_back: bool = False


@dataclass(frozen=True)
class Store:
    """The paths of one store and what can be seen there. Making one does no I/O."""

    root: Path

    @property
    def index_path(self) -> Path:
        """The index of this store's kernels."""
        return self.root / "index.json"

    @property
    def apps(self) -> Path:
        """The folder of the checkouts."""
        return self.root / "apps"

    @property
    def aside(self) -> Path:
        """Where checkouts with local changes go."""
        return self.root / "aside"

    @property
    def catalogs(self) -> Path:
        """The last good copies of catalogs."""
        return self.root / "catalogs"

    @property
    def resources(self) -> Path:
        """The applications' logos, a folder for each kernel that has one."""
        return self.root / "resources"

    @property
    def packages(self) -> Path:
        """The package caches, shared by all builds."""
        return self.root / "pkgs"

    @property
    def packages_lock(self) -> Path:
        """Shared by the builds that run, and held by who removes packages."""
        return self.root / "pkgs.lock"

    @property
    def sync_lock(self) -> Path:
        """Held by the one sync that runs."""
        return self.root / "sync.lock"

    def writable(self) -> bool:
        """Whether this user may build here."""
        return writable(self.root)

    def index(self) -> Index:
        """The kernels of this store. Raises ValueError when the index is there but can't be read."""
        return read_index(self.index_path)

    def folder(self, name: str) -> Path:
        """Where a kernel's environments are."""
        return self.root / "environments" / name

    def beside(self, name: str, fingerprint: str, what: str) -> Path:
        """The lock, progress.json, log or request.json of a fingerprint's builds."""
        return self.folder(name) / f"{fingerprint}.{what}"

    def generations(self, name: str) -> list[Generation]:
        """Every prefix of a kernel, complete or not, newest number first."""
        folder = self.folder(name)
        try:
            names = os.listdir(folder)
        except OSError:
            return []
        found = [match for entry in names if (match := _GENERATION.match(entry))]
        generations = [Generation(folder / m[0], m[1], int(m[2])) for m in found]
        return sorted(generations, key=lambda generation: -generation.number)

    def next_generation(self, name: str, fingerprint: str) -> Generation:
        """The prefix that a new build makes. Raises PrefixTooLongError."""
        numbers = [g.number for g in self.generations(name) if g.fingerprint == fingerprint]
        number = max(numbers, default=0) + 1
        path = self.folder(name) / f"{fingerprint}-{number}"
        if (length := len(os.fsencode(path))) > PREFIX_LIMIT:
            raise PrefixTooLongError(
                f"The prefix would be {length} bytes long ({path}), but conda packages can embed {PREFIX_LIMIT}. "
                "Set c.Sepal.store to a folder with a shorter path."
            )
        return Generation(path, fingerprint, number)

    def remove_leftovers(self, name: str, fingerprint: str) -> None:
        """Under the environment's lock, a prefix of this fingerprint without a marker is what a killed build left."""
        for generation in self.generations(name):
            if generation.fingerprint == fingerprint and not generation.marker.exists():
                if generation.path.is_symlink():
                    generation.path.unlink()
                shutil.rmtree(generation.path, ignore_errors=True)

    def observe(self, name: str, fingerprint: str) -> Environment:
        """What is there for a kernel at a fingerprint. Reads a few small files; never waits."""
        complete = self.complete(name)
        newest = next((g for g in complete if g.fingerprint == fingerprint), None)
        ready = self._rolled_back_to(name, complete, fingerprint, newest) or newest
        older = max((g for g in complete if g.fingerprint != fingerprint), key=published, default=None)
        progress = read_progress(self.beside(name, fingerprint, "progress.json"))
        building = locks.held(self.beside(name, fingerprint, "lock"))
        failure = None if building or ready else _failure(progress)
        if ready:
            state = State.READY
        elif building:
            state = State.BUILDING
        elif failure:
            state = State.FAILED
        else:
            state = State.STALE if older else State.MISSING
        return Environment(state, self, ready, older, progress, failure, ready is not newest)

    def complete(self, name: str) -> list[Generation]:
        """Every complete prefix of a kernel, newest number first."""
        return [generation for generation in self.generations(name) if generation.marker.is_file()]

    def roll_back(self, name: str, fingerprint: str, generation: Generation | None) -> None:
        """Let launches use this prefix until the wanted fingerprint changes or is built anew; None: the newest again.

        Raises StoreError.
        """
        path = self.folder(name) / _ROLLBACK
        newest = next((g for g in self.complete(name) if g.fingerprint == fingerprint), None)
        if generation is None:
            path.unlink(missing_ok=True)
        else:
            document = {
                "wanted": fingerprint,
                "newest": newest.path.name if newest else "",
                "use": generation.path.name,
            }
            write_json(path, document, durable=True)
        if current := generation or newest:
            self.link_current(current)

    def _rolled_back_to(
        self, name: str, complete: Sequence[Generation], fingerprint: str, newest: Generation | None
    ) -> Generation | None:
        """The prefix that was rolled back to, while nothing newer than what was there then is wanted or built."""
        try:
            document = read_json(self.folder(name) / _ROLLBACK, 4096)
            still = document["wanted"] == fingerprint and document["newest"] == (newest.path.name if newest else "")
            return next((g for g in complete if still and g.path.name == document["use"]), None)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def link_current(self, generation: Generation) -> None:
        """Let `current` point to a prefix, by rename: readers of the old path never find it missing."""
        link = generation.path.parent / "current"
        temporary = link.with_name(f".current.{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        temporary.symlink_to(generation.path.name)
        os.replace(temporary, link)


@dataclass(frozen=True)
class Stores:
    """The stores that are searched, in order; only the last one is ever written."""

    searched: tuple[Store, ...]
    own: Store

    @classmethod
    def of(cls, store: str, search_stores: Sequence[str] = ()) -> Stores:
        """The stores that the settings name."""
        return cls(tuple(Store(Path(root)) for root in search_stores if root != store), Store(Path(store)))

    def __iter__(self) -> Iterator[Store]:
        yield from (*self.searched, self.own)

    def kernels(self) -> list[tuple[Store, Kernel]]:
        """Every kernel and the store whose index names it; of two with the same name the first wins.

        An index that can't be read costs its own kernels only; `broken` tells of it.
        """
        found: dict[str, tuple[Store, Kernel]] = {}
        for store in self:
            with contextlib.suppress(ValueError):
                for kernel in store.index().kernels:
                    found.setdefault(kernel.name, (store, kernel))
        return list(found.values())

    def find(self, name: str) -> tuple[Store, Kernel]:
        """The kernel of a name, in any case. Raises UnknownKernelError."""
        kernels = {kernel.name: (store, kernel) for store, kernel in self.kernels()}
        wanted = name.lower()
        if found := kernels.get(wanted) or kernels.get(f"venv-{wanted}"):
            return found
        import difflib

        near = difflib.get_close_matches(wanted, kernels, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UnknownKernelError(
            f"No catalog names a kernel {name!r}.{hint} `jupyter sepal list` shows those there are; "
            "`jupyter sepal sync` reads the catalogs again."
        )

    def observe(self, kernel: Kernel) -> Environment:
        """The best that any store has for a kernel: a ready prefix wherever it is, else the writable store's state."""
        views = [store.observe(kernel.name, kernel.fingerprint) for store in self]
        for wanted in (State.READY, State.BUILDING):
            if found := next((view for view in views if view.state is wanted), None):
                return found
        own = views[-1]
        older = next((view.older for view in views if view.older), None)
        if own.state is State.MISSING and older:
            return Environment(State.STALE, own.store, older=older)
        return own

    def complete(self, name: str) -> list[Generation]:
        """Every complete prefix of a kernel in any store, the newest first."""
        found = [generation for store in self for generation in store.complete(name)]
        return sorted(found, key=published, reverse=True)

    def newest(self, name: str) -> Generation | None:
        """The newest complete prefix of a kernel that the index no longer names: what a restart can still use."""
        return next(iter(self.complete(name)), None)

    def to_build_in(self, name: str, contact: str = "") -> Store:
        """The store that a build writes. Raises StoreReadOnlyError, which says whom to ask."""
        if self.own.writable():
            return self.own
        raise StoreReadOnlyError(
            f"The environment of {name} isn't built yet, and you may not write to {self.own.root}. Ask "
            f"{contact or _owner(self.own.root)} to run `jupyter sepal build {name}`, or set c.Sepal.store to a folder "
            "of your own."
        )


def make_store(settings: Sepal) -> Store:
    """The store that the settings name, its folder made where it is not there yet, for the group that may write it.

    Raises StoreError.
    """
    store = Store(Path(settings.store))
    try:
        if not store.root.is_dir():
            make_folder(store.root)
            if settings.group:
                shutil.chown(store.root, group=settings.group)
                store.root.chmod(0o2775)
    except LookupError:
        raise SettingsError(f"There is no group {settings.group!r} (c.Sepal.group).") from None
    except OSError as error:
        raise store_error(error, store.root) from error
    return store


def _owner(folder: Path) -> str:
    """Whoever administers a store, as far as its folder says."""
    try:
        return user_name(folder.stat().st_uid)
    except OSError:
        return "whoever administers it"


def published(generation: Generation) -> float:
    """When a prefix became ready, in seconds since the epoch; 0 when it is gone."""
    try:
        return generation.marker.stat().st_mtime
    except OSError:
        return 0


def _failure(progress: Progress | None) -> SepalError | None:
    if progress is None:
        return None
    if not progress.ended:
        return KilledError(
            f"The build of {progress.name} ended without a word while it was at “{progress.phase.value}”: it was "
            "killed, ran out of memory, or the machine went down. Start the kernel again to build it again."
        )
    return progress.failure()
