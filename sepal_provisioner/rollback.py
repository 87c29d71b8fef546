"""Going back to the version of an environment before the newest one."""

from __future__ import annotations

from . import audit
from .errors import StoreReadOnlyError, UnknownKernelError
from .generation import Generation
from .index import Kernel
from .store import Stores, published


def roll_back(stores: Stores, kernel: Kernel, *, to: str = "", undo: bool = False) -> Generation | None:
    """Let launches use the version before the current one, the one that `to` names, or with `undo` the newest again.

    Returns what they use, None for the newest. Raises StoreReadOnlyError, and UnknownKernelError where there is no such
    version.
    """
    store = stores.own
    if not store.writable():
        raise StoreReadOnlyError(f"{store.root} can't be changed: you may not write there.")
    target = None if undo else _target(stores, kernel, to)
    store.roll_back(kernel.name, kernel.fingerprint, target)
    facts = {"kernel": kernel.name, "commit": kernel.commit, "fingerprint": kernel.fingerprint}
    audit.note(store.root, "rollback", "ok", prefix=str(target.path) if target else "the newest", **facts)
    return target


def _target(stores: Stores, kernel: Kernel, wanted: str) -> Generation:
    """The version to go back to. Raises UnknownKernelError, which says which there are."""
    store = stores.own
    complete = sorted(store.complete(kernel.name), key=published, reverse=True)
    if wanted:
        named = [generation for generation in complete if generation.path.name.startswith(wanted)]
        if len(named) == 1:
            return named[0]
        raise UnknownKernelError(
            f"{kernel.name} has {'several versions' if named else 'no version'} {wanted!r} in {store.root}; there are: "
            f"{', '.join(generation.path.name for generation in complete) or 'none'}."
        )
    environment = store.observe(kernel.name, kernel.fingerprint)
    current = environment.ready or environment.older
    before = complete[complete.index(current) + 1 :] if current in complete else []
    if before:
        return before[0]
    raise UnknownKernelError(
        f"{kernel.name} has no version before {current.path.name if current else 'the first build'} in {store.root}. "
        "c.Sepal.keep_generations says how many `jupyter sepal prune` leaves."
    )
