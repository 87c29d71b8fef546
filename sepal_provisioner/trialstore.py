"""The store of one user's trials, `<store>/try/<user>`: like any other, but its checkouts are links to the trees."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path

from jupyter_core.paths import jupyter_data_dir

from . import locks
from .errors import StoreError
from .files import make_folder, store_error, write_new
from .index import Index, Kernel, write_index
from .settings import Sepal
from .store import Store
from .users import current_user


def own_settings(settings: Sepal) -> Sepal:
    """The site's settings with a store that is this user's, no catalog, and no commit, which a working tree has not."""
    home = Store(Path(settings.store))
    root = home.root if home.writable() else Path(jupyter_data_dir()) / "sepal"
    own = {
        "store": str(root / "try" / current_user()),
        "search_stores": [],
        "catalogs": [],
        "require_commit": False,
        "group": "",
    }
    return Sepal.from_json({**settings.to_json(), **own})


def read_index_of(store: Store) -> Index:
    """The index of what is tried. Raises StoreError."""
    try:
        return store.index()
    except ValueError as error:
        raise StoreError(f"{error}. Remove {store.root} and try again.") from None


def name_kernel(store: Store, name: str, kernel: Kernel | None) -> None:
    """Let the index name this kernel as given, or no longer."""
    with locks.exclusive(store.sync_lock, timeout=30, waiting_for="Another trial is being written"):
        index = read_index_of(store)
        others = tuple(one for one in index.kernels if one.name != name)
        write_index(store.index_path, replace(index, kernels=(*others, kernel) if kernel else others))


def share_packages(store: Store) -> None:
    """Let trials use the package cache of the store around them, if it has one: what is there is not fetched twice.

    Its lock is shared, too, so that nobody prunes packages from under a trial's build.
    """
    around = Store(store.root.parent.parent)
    if store.packages.exists() or not around.packages.is_dir() or not around.writable():
        return
    try:
        with contextlib.suppress(FileExistsError):
            write_new(around.packages_lock)
        for link, target in ((store.packages_lock, around.packages_lock), (store.packages, around.packages)):
            if not link.is_symlink():
                link.unlink(missing_ok=True)
                link.symlink_to(target)
    except OSError as error:
        raise store_error(error, store.packages) from error


def link_tree(tree: Path, link: Path) -> None:
    """Let the store's checkout be the tree itself: what a build reads, and editable installs point to."""
    try:
        make_folder(link.parent)
        temporary = link.with_name(f".{link.name}.{os.getpid()}")
        temporary.symlink_to(tree)
        os.replace(temporary, link)
    except OSError as error:
        raise store_error(error, link) from error
