"""The command itself: which verbs there are."""

from __future__ import annotations

from textwrap import dedent
from typing import Any

from jupyter_core.application import JupyterApp

from .. import __version__
from .adopt import AdoptCommand
from .build import BuildCommand
from .cancel import CancelCommand
from .check import CheckCommand
from .command import SepalCommand
from .diff import DiffCommand
from .doctor import DoctorCommand
from .env import EnvCommand
from .install import InstallCommand
from .list import ListCommand
from .lock import LockCommand
from .log import LogCommand
from .prune import PruneCommand
from .rollback import RollbackCommand
from .run import RunCommand
from .shell import ShellCommand
from .status import StatusCommand
from .sync import SyncCommand
from .trial import TryCommand
from .watch import WatchCommand

VERBS: tuple[type[SepalCommand], ...] = (
    SyncCommand,
    ListCommand,
    StatusCommand,
    DoctorCommand,
    BuildCommand,
    WatchCommand,
    CancelCommand,
    LogCommand,
    LockCommand,
    DiffCommand,
    RollbackCommand,
    PruneCommand,
    EnvCommand,
    RunCommand,
    ShellCommand,
    InstallCommand,
    CheckCommand,
    TryCommand,
    AdoptCommand,
)


class SepalApp(JupyterApp):
    """`jupyter sepal <verb>`; `jupyter sepal <verb> --help` explains one."""

    name = "jupyter-sepal"
    version = __version__
    description = """Shared Jupyter kernels from a catalog of git repositories.

    The settings are those of the server: `c.Sepal.…` in jupyter_server_config.py, or --config=FILE.
    """
    examples = dedent(
        """\
        jupyter sepal sync                      # read the catalogs, update the repositories
        jupyter sepal list                      # which kernels there are, and whether they are built
        jupyter sepal build --all --jobs=2      # build what is not ready
        jupyter sepal log venv-gwb              # what the last build said
        jupyter sepal check .                   # what is wrong with your own repository
        jupyter sepal try .                     # its kernel, for you only, from what is not committed yet"""
    )
    subcommands = {verb.verb: (verb, verb.summary) for verb in VERBS}
    aliases: dict[str, Any] = {}
    flags: dict[str, Any] = {}

    def start(self) -> None:
        """Run the verb. Called by traitlets once the command line is read."""
        if self.subapp is None:
            self.print_help()
            self.exit(2)
        super().start()
