"""`jupyter sepal run`."""

from __future__ import annotations

import os
from textwrap import dedent
from typing import Any

from ..errors import SettingsError
from .command import SepalCommand
from .ready import enter, launch_of


class RunCommand(SepalCommand):
    """Run a command in a kernel's environment."""

    name = "jupyter-sepal-run"
    verb = "run"
    summary = "Run a command in the environment that a kernel starts in."
    description = """Run a command in exactly the environment that a kernel starts in, from the current folder. What
    stands behind `--` is the command's own. Its exit code is ours, and while it runs, its environment is not removed.
    """
    examples = dedent(
        """\
        jupyter sepal run venv-gwb -- python -c 'import sys; print(sys.prefix)'
        jupyter sepal run venv-gwb -- gdalinfo --version"""
    )
    command: list[str] = []

    def parse_command_line(self, argv: Any = None) -> None:
        """Keep what stands behind the first `--` for the command, unread. Called by traitlets."""
        words = list(argv or ())
        split = words.index("--") if "--" in words else len(words)
        self.command = words[split + 1 :]
        super().parse_command_line(words[:split])

    def run(self) -> int:
        if len(self.extra_args) != 1 or not self.command:
            raise SettingsError("Name one kernel, and behind `--` a command: jupyter sepal run venv-gwb -- python x.py")
        launch = launch_of(self.stores(), self.extra_args[0], os.environ, self.settings())
        enter(launch, self.command, launch.env)
