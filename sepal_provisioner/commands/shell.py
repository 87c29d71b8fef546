"""`jupyter sepal shell`."""

from __future__ import annotations

import os
from textwrap import dedent

from ..errors import SettingsError
from .command import SepalCommand
from .ready import enter, find_ready, launch_of

VARIABLE = "SEPAL_ENVIRONMENT"


class ShellCommand(SepalCommand):
    """Open a shell in a kernel's environment."""

    name = "jupyter-sepal-shell"
    verb = "shell"
    summary = "Open a shell in the environment that a kernel starts in."
    description = f"""Open $SHELL in the environment that a kernel starts in. {VARIABLE} holds the kernel's name there,
    for a prompt such as PS1='($SEPAL_ENVIRONMENT) \\w\\$ '. A start-up file of your shell that changes PATH does so
    here, too: `jupyter sepal run` is exact.
    """
    examples = dedent(
        """\
        jupyter sepal shell venv-gwb
        jupyter sepal shell venv-gwb --config=/etc/jupyter/jupyter_server_config.py"""
    )

    def run(self) -> int:
        if len(self.extra_args) != 1:
            raise SettingsError("Name one kernel: jupyter sepal shell venv-gwb")
        stores = self.stores()
        name, generation = find_ready(stores, self.extra_args[0], "entered")
        launch = launch_of(stores, name, os.environ, self.settings())
        self.say(f"{name}: a shell in {generation.path}; `exit` ends it.")
        enter(launch, [os.environ.get("SHELL") or "/bin/sh", "-i"], {**launch.env, VARIABLE: name})
