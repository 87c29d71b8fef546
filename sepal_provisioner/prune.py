"""What a store no longer needs: a plan that says of everything why it stays or goes, and its execution.

A prefix in use is held by its kernels with a shared lock, so whatever the plan says, nobody's environment goes away
under a running kernel; a kernel that starts in that moment is told to start again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from . import audit, locks
from .errors import BusyError, StoreError
from .files import remove_tree, tree_size
from .generation import Generation
from .git import Git
from .index import Index, Kernel
from .settings import Sepal
from .store import BYTECODE, Store, published
from .uses import last_use

CACHES = ("rattler/pkgs", "micromamba/pkgs")  # below the store's `pkgs`: a folder for each package
UNNAMED = "no catalog names it"


@dataclass(frozen=True)
class Item:
    """One thing in a store. `size` in bytes: what is its own, or shared only with what goes too and comes later.

    `kind` is prefix, leftover, records, checkout, aside, package or bytecode. `last_used` is 0 where nobody knows.
    """

    kind: str
    path: Path
    remove: bool
    reason: str
    size: int = 0
    last_used: float = 0
    kernel: str = ""
    generation: Generation | None = None


def plan(store: Store, settings: Sepal) -> list[Item]:
    """Everything in a store that could be removed, and why it stays or goes. Changes nothing.

    Raises StoreError when there is no index that could say what is needed.
    """
    try:
        index = store.index()
    except ValueError as error:
        raise StoreError(f"Nothing is pruned: {error}. Run `jupyter sepal sync` first.") from None
    if not index.written:
        raise StoreError(f"Nothing is pruned: {store.root} has no index. Run `jupyter sepal sync` first.")
    items = [
        *_environments(store, index, settings),
        *_checkouts(store, index, settings),
        *_packages(store),
        *_bytecode(store),
    ]
    return _measured(items)


def apply(store: Store, items: Iterable[Item]) -> Iterator[Item]:
    """Remove what a plan says, one after the other; each is returned as it turned out, with why it stayed if it did.

    Raises StoreError when the store cannot be written.
    """
    if not store.writable():
        raise StoreError(f"{store.root} can't be pruned: you may not write there.")
    with locks.exclusive(store.sync_lock, timeout=60, waiting_for="A sync is running"):
        for item in items:
            if item.remove:
                done = _remove(store, item)
                if done.remove and item.kind not in ("package", "bytecode"):
                    audit.note(store.root, "remove", "ok", kind=item.kind, path=str(item.path), reason=item.reason)
                yield done


# -------------------------------------------------------------------------------------------------------- the plan


def _environments(store: Store, index: Index, settings: Sepal) -> Iterator[Item]:
    folder = store.folder("any").parent
    for name in _names(folder):
        kernel = index.get(name)
        kept = name in index.skipped
        generations = store.generations(name)
        yield from _prefixes(store, index, settings, name, kernel, kept)
        stays = {generation.fingerprint for generation in generations} | ({kernel.fingerprint} if kernel else set())
        for path in sorted(folder.joinpath(name).glob("*.log")):
            fingerprint = path.name.partition(".")[0]
            if fingerprint not in stays and not kept and not locks.held(store.beside(name, fingerprint, "lock")):
                yield Item("records", path, True, "the log of a version that is gone", kernel=name)


def _prefixes(
    store: Store, index: Index, settings: Sepal, name: str, kernel: Kernel | None, skipped: bool
) -> Iterator[Item]:
    environment = store.observe(name, kernel.fingerprint) if kernel else None
    current = (environment.ready or environment.older) if environment else None
    complete = sorted(store.complete(name), key=published, reverse=True)
    older = [generation for generation in complete if generation != current]
    for generation in [*([current] if current else []), *older]:
        used = last_use(generation, settings)
        item = Item("prefix", generation.path, False, "", kernel=name, generation=generation, last_used=used)
        if locks.shared(generation.marker):
            yield replace(item, reason="a kernel runs from it")
        elif skipped:
            yield replace(item, reason="its entry says `skip`: what is built stays")
        elif kernel is None:
            unsure = _unsure(index)
            yield replace(item, remove=not unsure, reason=unsure or UNNAMED)
        elif generation == current:
            ready = environment is not None and environment.ready is not None
            yield replace(item, reason="current" if ready else "current until the newer version is built")
        elif older.index(generation) < settings.keep_generations:
            yield replace(item, reason="kept for a rollback (c.Sepal.keep_generations)")
        else:
            yield replace(item, remove=True, reason="an older version")
    for generation in store.generations(name):
        if generation not in complete:
            building = locks.held(store.beside(name, generation.fingerprint, "lock"))
            reason = "is being built" if building else "a build that failed or was killed left it"
            yield Item("leftover", generation.path, not building, reason, kernel=name, generation=generation)


def _unsure(index: Index) -> str:
    """Why what no entry names stays all the same: a catalog can't be read, or has entries that can't."""
    if unread := [state.source for state in index.catalogs if state.error]:
        return f"{UNNAMED}, but {unread[0]} can't be read"
    if faulty := [problem.place for problem in index.problems if "apps[" in problem.place]:
        return f"{UNNAMED}, but an entry is faulty ({faulty[0]})"
    return ""


def _checkouts(store: Store, index: Index, settings: Sepal) -> Iterator[Item]:
    needed = {kernel.checkout for kernel in index.kernels}
    for name in _names(store.apps):
        path, kernel = store.apps / name, f"venv-{name.lower()}"
        if name.startswith("."):
            yield Item("checkout", path, True, "a clone that was cut off")
        elif name in needed or kernel in index.skipped:
            yield Item("checkout", path, False, "its kernel is in the catalog", kernel=kernel)
        elif store.complete(kernel):
            yield Item("checkout", path, False, "an environment may have been installed from it", kernel=kernel)
        elif Git(path, timeout=settings.git_timeout, schemes=settings.schemes).changed_by_hand():
            yield Item("checkout", path, False, "it has changes of its own", kernel=kernel)
        else:
            unsure = _unsure(index)
            yield Item("checkout", path, not unsure, unsure or UNNAMED, kernel=kernel)
    for name in _names(store.aside):
        yield Item("aside", store.aside / name, False, "somebody's changes, set aside by a sync; look at them")


def _packages(store: Store) -> Iterator[Item]:
    """Unpacked packages that no prefix shares a file with. While anything is built, all are needed."""
    busy = locks.shared(store.packages_lock)
    for cache in CACHES:
        for name in _names(store.packages / cache):
            path = store.packages / cache / name
            if not path.is_dir() or name == "cache":
                continue
            if busy:
                yield Item("package", path, False, "a build is running")
            elif _has_links(path):
                yield Item("package", path, False, "prefixes share its files")
            else:
                yield Item("package", path, True, "no prefix uses it")


def _bytecode(store: Store) -> Iterator[Item]:
    """The compiled modules that no prefix shares any more, as one item."""
    folder = store.packages / BYTECODE
    if next(_unlinked(folder), None) is not None:
        busy = locks.shared(store.packages_lock)
        reason = "a build is running" if busy else "compiled modules that no prefix shares"
        yield Item("bytecode", folder, not busy, reason)


def _unlinked(folder: Path) -> Iterator[str]:
    for place, _, files in os.walk(folder):
        for name in files:
            path = os.path.join(place, name)
            with contextlib.suppress(OSError):
                if os.lstat(path).st_nlink == 1:
                    yield path


def _has_links(folder: Path) -> bool:
    """Whether any file below a folder has another name somewhere."""
    for place, folders, files in os.walk(folder):
        folders.sort()
        for name in files:
            with contextlib.suppress(OSError):
                if os.lstat(os.path.join(place, name)).st_nlink > 1:
                    return True
    return False


def _measured(items: list[Item]) -> list[Item]:
    """The same items with their sizes: what stays is counted first, so that what goes counts what it frees."""
    seen: set[tuple[int, int]] = set()
    sizes = {item.path: _size(item.path, seen) for item in sorted(items, key=lambda item: item.remove)}
    return [replace(item, size=sizes[item.path]) for item in items]


def _size(path: Path, seen: set[tuple[int, int]]) -> int:
    if path.name == BYTECODE:
        return sum(os.lstat(file).st_blocks * 512 for file in _unlinked(path))
    if path.is_dir():
        return tree_size(path, seen)
    with contextlib.suppress(OSError):
        return path.lstat().st_blocks * 512
    return 0


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []


# ----------------------------------------------------------------------------------------------------- the execution


def _remove(store: Store, item: Item) -> Item:
    try:
        if item.kind == "prefix" and item.generation:
            remove_prefix(store, item.generation)
        elif item.kind == "leftover" and item.generation:
            lock = store.beside(item.kernel, item.generation.fingerprint, "lock")
            with locks.exclusive(lock, timeout=0, waiting_for="it is being built"):
                store.remove_leftovers(item.kernel, item.generation.fingerprint)
        elif item.kind == "package":
            with locks.exclusive(store.packages_lock, timeout=0, waiting_for="a build is running"):
                _remove_tree(item.path)
        elif item.kind == "bytecode":
            with locks.exclusive(store.packages_lock, timeout=0, waiting_for="a build is running"):
                for path in _unlinked(item.path):
                    os.unlink(path)
        elif item.kind == "records":
            for what in ("log", "progress.json", "request.json"):
                store.beside(item.kernel, item.path.name.partition(".")[0], what).unlink(missing_ok=True)
        else:
            _remove_tree(item.path)
    except BusyError as error:
        return replace(item, remove=False, reason=f"stays: {error.message}")
    except OSError as error:
        return replace(item, remove=False, reason=f"stays: {error.strerror or error}")
    if item.kind in ("prefix", "leftover"):
        _tidy(store, item.kernel)
    return item


def remove_prefix(store: Store, generation: Generation) -> None:
    """Remove a prefix that no kernel runs from, marker first. Raises BusyError while one does, and OSError."""
    with locks.alone(generation.marker, waiting_for="a kernel runs from it"):
        generation.marker.unlink()
        if generation.path.is_symlink():  # adopted: its files are not ours
            generation.path.unlink()
        else:
            _remove_tree(generation.path)


def _remove_tree(path: Path) -> None:
    remove_tree(path)
    if path.exists():
        raise OSError("it could not be removed whole")


def _tidy(store: Store, name: str) -> None:
    """After a prefix went: `current` leads somewhere or nowhere, and a kernel without any has no folder."""
    folder = store.folder(name)
    link = folder / "current"
    left = sorted(store.complete(name), key=published)
    if link.is_symlink() and not link.exists():
        link.unlink()
        if left:
            store.link_current(left[-1])
    known = store.index().get(name)
    if not store.generations(name) and known is None and not any(locks.held(path) for path in folder.glob("*.lock")):
        shutil.rmtree(folder, ignore_errors=True)
