"""`jupyter sepal log`."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

from ..errors import SettingsError, UnknownKernelError
from ..store import Environment, State
from .command import SepalCommand

SHOWN = 20_000_000  # characters


class LogCommand(SepalCommand):
    """Show the log of a kernel's running or last build."""

    name = "jupyter-sepal-log"
    verb = "log"
    summary = "Show the log of a kernel's last build."
    description = """Show the log of a kernel's running or last build. It begins with the command that repeats the
    build by hand and holds the whole output of every step.
    """
    examples = dedent(
        """\
        jupyter sepal log venv-gwb
        jupyter sepal log venv-gwb --json | jq -r .path"""
    )

    def run(self) -> int:
        if len(self.extra_args) != 1:
            raise SettingsError("Name one kernel: jupyter sepal log venv-gwb")
        stores = self.stores()
        _, kernel = stores.find(self.extra_args[0])
        environment = stores.observe(kernel)
        path = log_path(environment, kernel.name, kernel.fingerprint)
        try:
            text = path.read_text(encoding="utf-8", errors="replace")[-SHOWN:]
        except OSError:
            raise UnknownKernelError(
                f"{kernel.name} has no log: it was never built. Build it: jupyter sepal build {kernel.name}"
            ) from None
        if self.json:
            self.print_json({"name": kernel.name, "state": environment.state.value, "path": str(path), "text": text})
        else:
            print(text, end="" if text.endswith("\n") else "\n")
        return 0


def log_path(environment: Environment, name: str, fingerprint: str) -> Path:
    """The log that belongs to the state which is shown: of a ready prefix its own, else the last attempt's."""
    attempt = environment.store.beside(name, fingerprint, "log")
    if environment.state is State.READY and environment.ready and not attempt.is_file():
        return environment.ready.marker.with_name("build.log")
    return attempt
