"""`jupyter sepal rollback`."""

from __future__ import annotations

import time
from textwrap import dedent

from traitlets import Bool, Unicode

from .. import audit
from ..errors import SettingsError, StoreError, UnknownKernelError
from ..files import human_time
from ..generation import Generation
from ..index import Kernel
from ..store import Store, published
from .command import SepalCommand


class RollbackCommand(SepalCommand):
    """Let launches use the version of an environment before the newest one."""

    name = "jupyter-sepal-rollback"
    verb = "rollback"
    summary = "Make the previous version of an environment current again."
    description = """Make the version of an environment that was ready before the current one current again: launches
    and restarts use it from now on, and kernels that run keep what they have. It lasts until the repository asks for
    another environment, or somebody builds this one anew. --undo goes back to the newest.
    """
    examples = dedent(
        """\
        jupyter sepal rollback venv-gwb
        jupyter sepal rollback venv-gwb --undo"""
    )

    undo = Bool(False, help="Use the newest version again.").tag(config=True)
    to = Unicode("", help="The version to use, such as 05282f6faca6f716-1, instead of the previous one.").tag(
        config=True
    )
    flags = {
        **SepalCommand.flags,
        "undo": ({"RollbackCommand": {"undo": True}}, "Use the newest version again."),
    }
    aliases = {**SepalCommand.aliases, "to": "RollbackCommand.to"}

    def run(self) -> int:
        if len(self.extra_args) != 1:
            raise SettingsError("Name one kernel: jupyter sepal rollback venv-gwb")
        stores = self.stores()
        _, kernel = stores.find(self.extra_args[0])
        store = stores.own
        if not store.writable():
            raise StoreError(f"{store.root} can't be changed: you may not write there.")
        target = None if self.undo else _target(store, kernel, self.to)
        store.roll_back(kernel.name, kernel.fingerprint, target)
        facts = {"kernel": kernel.name, "commit": kernel.commit, "fingerprint": kernel.fingerprint}
        audit.note(store.root, "rollback", "ok", prefix=str(target.path) if target else "the newest", **facts)
        if self.json:
            self.print_json({"name": kernel.name, "prefix": str(target.path) if target else None})
        elif target:
            ago = human_time(max(0, time.time() - published(target)))
            print(f"{kernel.name}: launches use {target.path.name}, built {ago} ago, from now on")
        else:
            print(f"{kernel.name}: launches use the newest version from now on")
        return 0


def _target(store: Store, kernel: Kernel, wanted: str) -> Generation:
    """The version to go back to. Raises UnknownKernelError, which says which there are."""
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
