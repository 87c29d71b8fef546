"""`jupyter sepal cancel`."""

from __future__ import annotations

from textwrap import dedent

from ..builds import cancel_build
from ..errors import SettingsError
from .command import SepalCommand


class CancelCommand(SepalCommand):
    """Stop a build that is running, and remove what it had made."""

    name = "jupyter-sepal-cancel"
    verb = "cancel"
    summary = "Stop a running build and remove what it had made."
    description = """Stop the build of a kernel's environment, on the machine that runs it, and remove what it had made.
    Whoever waits for it is told. Closing a notebook, or interrupting a cell that waits, leaves the build running.
    """
    examples = dedent(
        """\
        jupyter sepal cancel venv-gwb
        jupyter sepal cancel venv-gwb --json | jq .cancelled"""
    )

    def run(self) -> int:
        if len(self.extra_args) != 1:
            raise SettingsError("Name one kernel: jupyter sepal cancel venv-gwb")
        stores = self.stores()
        _, kernel = stores.find(self.extra_args[0])
        cancelled = cancel_build(stores.own, kernel)
        if self.json:
            self.print_json({"name": kernel.name, "cancelled": cancelled})
        else:
            print(f"{kernel.name}: {'the build is cancelled' if cancelled else 'nothing is being built'}")
        return 0
