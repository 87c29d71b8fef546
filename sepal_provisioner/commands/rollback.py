"""`jupyter sepal rollback`."""

from __future__ import annotations

import time
from textwrap import dedent

from traitlets import Bool, Unicode

from ..errors import SettingsError
from ..files import human_time
from ..rollback import roll_back
from ..store import published
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
        target = roll_back(stores, kernel, to=self.to, undo=self.undo)
        if self.json:
            self.print_json({"name": kernel.name, "prefix": str(target.path) if target else None})
        elif target:
            ago = human_time(max(0, time.time() - published(target)))
            print(f"{kernel.name}: launches use {target.path.name}, built {ago} ago, from now on")
        else:
            print(f"{kernel.name}: launches use the newest version from now on")
        return 0
