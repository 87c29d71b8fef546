"""Starting a kernel from a ready prefix: its interpreter, its environment, and the lock that it holds."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import audit, locks
from .environ import Decision, decide, launch_environment, look
from .errors import NotTrustedError, StoreError
from .generation import Generation
from .settings import Sepal
from .store import Stores
from .trust import Trust
from .uses import note_use

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Launch:
    """What to start. `lock` is the descriptor of the prefix's shared lock, which the kernel inherits, or -1 where the
    file system has no locks; whoever starts the kernel closes its own copy afterwards."""

    generation: Generation
    python: str
    env: dict[str, str]
    lock: int

    def close(self) -> None:
        """Close our copy of the lock; a kernel that inherited it still holds it."""
        if self.lock >= 0:
            os.close(self.lock)


def prepare(generation: Generation, name: str, base: Mapping[str, str], settings: Sepal) -> Launch:
    """The launch of a kernel from a prefix. Solves nothing, starts nothing, and writes at most when it was last used.

    Raises StoreError when the prefix vanished or its marker cannot be read, and NotTrustedError.
    """
    check_trust(generation, name, settings)
    try:
        record = generation.record()
        lock = locks.share(generation.marker)
    except FileNotFoundError as error:
        raise StoreError(f"{generation.path} is gone: it was removed meanwhile. Start the kernel again.") from error
    except BlockingIOError as error:
        raise StoreError(f"{generation.path} is being removed. Start the kernel again.") from error
    except ValueError as error:
        raise StoreError(f"{error}. Build it again: jupyter sepal build {name} --force") from error
    except OSError as error:
        _log.warning("No lock on %s (%s): nothing keeps it from being removed", generation.path, error.strerror)
        lock = -1
    facts = look(generation.path, base, record.facts(generation.path))
    note_use(generation, settings)
    return Launch(generation, generation.python, launch_environment(facts, base, _kept(name, settings)), lock)


def explain(generation: Generation, name: str, base: Mapping[str, str], settings: Sepal) -> tuple[Decision, ...]:
    """Why each variable that a launch decides has its value: for each one the decision that counts, in order.

    For `jupyter sepal env`. Raises StoreError and NotTrustedError, as `prepare` does.
    """
    check_trust(generation, name, settings)
    try:
        record = generation.record()
    except (OSError, ValueError) as error:
        raise StoreError(f"{error}. Build it again: jupyter sepal build {name} --force") from error
    facts = look(generation.path, base, record.facts(generation.path))
    last = {decision.variable: decision for decision in decide(facts, base, _kept(name, settings))}
    return tuple(last.values())


def _kept(name: str, settings: Sepal) -> tuple[str, ...]:
    """The variables that an administrator lets a kernel inherit as they are."""
    return (*settings.keep_variables.get("*", ()), *settings.keep_variables.get(name, ()))


def check_trust(generation: Generation, name: str, settings: Sepal) -> None:
    """Refuse a prefix, and an index or checkout that led to it, which another user could have written.

    About twenty stats. Raises NotTrustedError.
    """
    trust = Trust.of(settings)
    for store in Stores.of(settings.store, settings.search_stores):
        paths = [store.index_path]
        if store.root == generation.store_root:
            paths += [
                generation.path.parent.parent, generation.path.parent, generation.path, generation.marker.parent,
                generation.marker, generation.path / "bin", Path(generation.python),
                store.apps, store.apps / name.removeprefix("venv-"),
            ]  # fmt: skip
            if generation.path.is_symlink():  # adopted: what leads to it counts, too
                real = generation.path.resolve()
                paths += [*reversed(real.parents), real]
        if len(paths) > 1 or store.index_path.exists():
            try:
                trust.check_below(store.root, paths)
            except NotTrustedError as error:
                facts = {"kernel": name, "prefix": str(generation.path), "message": error.message}
                audit.note(Path(settings.store), "launch", error.code, **facts)
                raise


def ready_generation(stores: Stores, name: str) -> Generation | None:
    """The newest ready prefix for what the index says now; for a kernel that the catalog no longer names, the newest
    that is left. None when it has to be built. Raises UnknownKernelError when there is nothing of that name."""
    known = next((kernel for _, kernel in stores.kernels() if kernel.name == name.lower()), None)
    if known is not None:
        return stores.observe(known).ready
    left = stores.newest(name)
    if left is None:
        stores.find(name)  # says which kernels there are
    return left
