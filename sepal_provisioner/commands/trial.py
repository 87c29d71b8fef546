"""`jupyter sepal try`."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from textwrap import dedent
from typing import Any

from traitlets import Bool, Unicode

from .. import trial
from ..builds import Build
from ..errors import BuildError, SepalError, SettingsError
from ..files import human_size, human_time
from ..generation import Generation
from ..pool import Row, Step
from .build import live_table_of, plain_lines
from .command import SepalCommand


class TryCommand(SepalCommand):
    """Let an author use a kernel before anybody else gets it."""

    name = "jupyter-sepal-try"
    verb = "try"
    summary = "Build a kernel from your working tree, for you only, as `(test) <name>`."
    description = """Build the environment of a working tree, uncommitted changes included, exactly as it would be
    built for everybody, and give JupyterLab a kernel `(test) <name>` that only you have. Try again after a change: an
    environment file that is still the same is not built again, and what changed replaces the last one. No catalog is
    needed, and none is changed. `--remove` takes the folder or the kernel's name (test-…).
    """
    examples = dedent(
        """\
        jupyter sepal try .
        jupyter sepal try . --run=ui.ipynb    # and execute a notebook in it
        jupyter sepal try . --remove          # take the kernel and its environment away"""
    )

    remove = Bool(False, help="Take the kernel spec and its environment away.").tag(config=True)
    force = Bool(False, help="Build anew although nothing changed: a branch that pip installs has moved.").tag(
        config=True
    )
    run_notebook = Unicode("", help="A notebook of the tree to execute in the kernel; it is not changed.").tag(
        config=True
    )

    aliases = {**SepalCommand.aliases, "run": "TryCommand.run_notebook"}
    flags = {
        **SepalCommand.flags,
        "remove": ({"TryCommand": {"remove": True}}, "Take the kernel spec and its environment away."),
        "force": ({"TryCommand": {"force": True}}, "Build anew although nothing changed."),
    }

    def run(self) -> int:
        if len(self.extra_args) != 1:
            raise SettingsError("Name one folder: jupyter sepal try .")
        wanted = trial.trial_of(Path(self.extra_args[0]), self.settings())
        if self.remove:
            return self._remove(wanted)
        found = trial.register(wanted)
        began = time.monotonic()
        asked = trial.build(found, force=self.force)
        generation = self._wait(asked, found.name) if isinstance(asked, Build) else asked
        folder = trial.install(found)
        stays = trial.remove_older(found, generation)
        ran = self._execute(found) if self.run_notebook else None
        seconds = round(time.monotonic() - began, 3)
        if self.json:
            document = self._document(found, generation, isinstance(asked, Build), folder, seconds)
            self.print_json({**document, "notebook": ran})
        else:
            built = f"ready after {human_time(seconds)}" if isinstance(asked, Build) else "nothing has changed"
            print(f"{found.name}: {built}, {human_size(generation.record().size)}: {generation.path}")
            print(f"Pick {found.display_name} in JupyterLab; a kernel that runs is to be restarted.")
            for reason in stays:
                self.say(reason)
            if ran:
                print(f"{ran['path']}: {ran['cells']} cells ran")
        return 0

    def _wait(self, build: Build, name: str) -> Generation:
        began = time.monotonic()
        table = live_table_of(self)
        with table or contextlib.nullcontext(plain_lines(self)) as draw:
            try:
                return build.wait(lambda progress: draw([Row(name, Step.RUNNING, progress, time.monotonic() - began)]))
            except SepalError as error:
                if not self.json:
                    self.say(f"The log: {build.log}")
                raise error

    def _remove(self, wanted: trial.Trial) -> int:
        removed = trial.remove(wanted)
        if self.json:
            self.print_json({"name": wanted.name, "removed": removed})
        else:
            print(f"{wanted.name}: {'removed' if removed else 'there is nothing to remove'}")
        return 0

    def _document(
        self, found: trial.Trial, generation: Generation, built: bool, folder: Path, seconds: float
    ) -> dict[str, Any]:
        return {
            "name": found.name,
            "display_name": found.display_name,
            "built": built,
            "prefix": str(generation.path),
            "path": str(folder),
            "seconds": seconds,
        }

    def _execute(self, found: trial.Trial) -> dict[str, Any]:
        """Run a notebook in the kernel, in its own folder. Raises BuildError with the cell's own error."""
        try:
            import nbformat
            from nbclient import NotebookClient
            from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
        except ImportError:
            raise SettingsError("--run needs nbclient: pip install nbclient") from None
        path = found.tree / self.run_notebook
        path = path if path.is_file() else Path(os.path.abspath(self.run_notebook))
        try:
            notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
        except (OSError, ValueError) as error:
            raise SettingsError(f"The notebook {self.run_notebook} can't be read: {error}.") from None
        client = NotebookClient(notebook, kernel_name=found.name, resources={"metadata": {"path": str(path.parent)}})
        try:
            client.execute()
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            raise BuildError(f"{path.name} does not run in {found.name}.", detail=str(error)) from None
        return {"path": str(path), "cells": sum(cell.cell_type == "code" for cell in notebook.cells)}
