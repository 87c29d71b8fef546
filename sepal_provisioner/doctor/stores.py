"""The stores: can they be read, written and locked, who could have written them, and do prefixes fit?"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from .. import locks
from ..errors import NotTrustedError, SepalError
from ..files import human_time
from ..index import Index
from ..settings import Sepal
from ..store import PREFIX_LIMIT, Store, Stores
from ..trust import Trust
from ..users import current_user
from ..watchfile import read_status
from .finding import Finding, Level

OUTDATED = 86_400  # seconds since the last sync
LONG_NAME = "venv-" + "x" * 40
FINGERPRINT = "0" * 16 + "-1"


def check_store(stores: Stores, settings: Sepal) -> Iterator[Finding]:
    """The store that we write."""
    store = stores.own
    yield from _check_length(stores)
    if not store.root.is_dir():
        if store.writable():
            yield Finding("store", Level.INFO, f"{store.root} is not there yet", "the first sync makes it")
        else:
            yield Finding(
                "store",
                Level.PROBLEM,
                f"{store.root} is not there, and {current_user()} can't make it",
                "kernels, checkouts and environments live there",
                "Make it, or set c.Sepal.store to a folder of your own.",
            )
        return
    if store.writable():
        yield Finding("store", Level.OK, f"{store.root} can be written by {current_user()}")
        yield from _check_lock(store)
    else:
        whom = f" Ask {settings.contact} for what is missing." if settings.contact else ""
        yield Finding(
            "store",
            Level.INFO,
            f"{store.root} is read-only for {current_user()}",
            "what is built in it can be used; builds and syncs are somebody else's",
            f"To build, set c.Sepal.store to a folder of your own, and this one in c.Sepal.search_stores.{whom}",
        )
    yield from _check_content(store, settings)
    yield from _check_watch(store)


def check_searched(stores: Stores, settings: Sepal) -> Iterator[Finding]:
    """The stores that are only read."""
    for store in stores.searched:
        if not store.root.is_dir():
            yield Finding(
                "store",
                Level.PROBLEM,
                f"{store.root} is not there",
                "c.Sepal.search_stores names it",
                "Mount it, or correct c.Sepal.search_stores.",
            )
        else:
            yield from _check_content(store, settings)


def _check_content(store: Store, settings: Sepal) -> Iterator[Finding]:
    try:
        index = store.index()
    except ValueError as error:
        yield Finding(
            "store", Level.PROBLEM, str(error), "no kernel of this store can be listed", "Run `jupyter sepal sync`."
        )
        return
    if not index.written:
        yield Finding(
            "store",
            Level.WARNING,
            f"{store.root} has no index",
            "no catalog was ever read, so there are no kernels",
            "Run `jupyter sepal sync`.",
        )
        return
    age = max(0, time.time() - index.written)
    said = f"{store.root}: {len(index.kernels)} kernels, last sync {human_time(age)} ago"
    late = age > OUTDATED
    yield Finding(
        "store",
        Level.WARNING if late else Level.OK,
        said,
        "changes of the catalogs and repositories since then are not seen" if late else "",
        "Run `jupyter sepal sync`, or `jupyter sepal watch` as a service." if late else "",
    )
    try:
        Trust.of(settings).check_below(store.root, _trusted_paths(store, index))
    except NotTrustedError as error:
        yield Finding("store", Level.PROBLEM, error.message, "no kernel is launched from it", "As it says.")
    else:
        yield Finding("store", Level.OK, f"{store.root}: nobody else could have written it")


def _trusted_paths(store: Store, index: Index) -> Iterator[Path]:
    """What leads to a kernel's code, as launches look at it."""
    yield from (store.index_path, store.apps, store.folder("any").parent)
    for kernel in index.kernels:
        yield from (store.apps / kernel.checkout, store.folder(kernel.name))
        if ready := store.observe(kernel.name, kernel.fingerprint).ready:
            yield from (ready.path, ready.marker.parent, ready.marker, ready.path / "bin", Path(ready.python))


def _check_lock(store: Store) -> Iterator[Finding]:
    path = store.root / f".doctor-{os.getpid()}-{secrets.token_hex(4)}.lock"
    try:
        with locks.exclusive(path, timeout=0, waiting_for="doctor"):
            works = locks.held(path)
    except SepalError as error:
        yield Finding(
            "store", Level.PROBLEM, error.message, "builds could not keep out of each other's way", "As it says."
        )
        return
    finally:
        path.unlink(missing_ok=True)
    if works:
        yield Finding("store", Level.OK, "locks work")
    else:
        yield Finding(
            "store",
            Level.PROBLEM,
            f"a lock in {store.root} keeps nobody out",
            "two builds could write one environment",
            "Set c.Sepal.store to a local disk, or mount NFS with locks.",
        )


def _check_length(stores: Stores) -> Iterator[Finding]:
    names = [kernel.name for _, kernel in stores.kernels()] or [LONG_NAME]
    longest = max((stores.own.folder(name) / FINGERPRINT for name in names), key=lambda path: len(os.fsencode(path)))
    length = len(os.fsencode(longest))
    if length > PREFIX_LIMIT:
        yield Finding(
            "store",
            Level.PROBLEM,
            f"a prefix would be {length} bytes long: {longest}",
            f"conda packages can embed {PREFIX_LIMIT}",
            "Set c.Sepal.store to a folder with a shorter path.",
        )


def _check_watch(store: Store) -> Iterator[Finding]:
    status = read_status(store)
    if status is None:
        return
    if status["running"]:
        said = f": {status['last_error']}" if status.get("last_error") else ""
        yield Finding("watch", Level.OK, f"a watch runs on {status.get('host')}, {status.get('state')}{said}")
    elif status.get("state") != "stopped":
        yield Finding(
            "watch",
            Level.WARNING,
            "the last watch of this store ended without a word",
            "it was killed, or the machine went down",
            "Start it again; a service manager would (examples/sepal-watch.service).",
        )
