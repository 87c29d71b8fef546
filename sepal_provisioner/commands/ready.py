"""What the verbs that need a ready environment share: the environment, or why there is none and what helps."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from typing import NoReturn

from .. import process
from ..errors import CommandError, NotRunnableError, UnknownKernelError
from ..generation import Generation
from ..launch import Launch, prepare
from ..settings import Sepal
from ..store import Environment, State, Stores


def ready(environment: Environment, name: str, what: str = "used") -> Generation:
    """The prefix that is ready. Raises UnknownKernelError, which names the command that helps."""
    if environment.ready:
        return environment.ready
    helps = {
        State.BUILDING: f"it is being built: jupyter sepal log -f {name}",
        State.FAILED: f"its build failed: jupyter sepal log {name}, then jupyter sepal build {name} --force",
        State.STALE: f"only an older version is: jupyter sepal build {name}",
    }.get(environment.state, f"build it: jupyter sepal build {name}")
    raise UnknownKernelError(f"{name} has no ready environment that could be {what}; {helps}")


def find_ready(stores: Stores, name: str, what: str = "used") -> tuple[str, Generation]:
    """A kernel's own name and its ready prefix. Raises UnknownKernelError."""
    _, kernel = stores.find(name)
    return kernel.name, ready(stores.observe(kernel), kernel.name, what)


def launch_of(stores: Stores, name: str, base: Mapping[str, str], settings: Sepal) -> Launch:
    """The launch that a kernel of this name would get, to be entered. Raises SepalError."""
    found, generation = find_ready(stores, name, "entered")
    return prepare(generation, found, base, settings)


def enter(launch: Launch, command: Sequence[str], env: Mapping[str, str]) -> NoReturn:
    """Become a command that runs in a launch environment and holds the prefix, as its kernels do.

    Raises CommandError.
    """
    program = shutil.which(command[0], path=env.get("PATH", os.defpath))
    if program is None:
        raise CommandError(
            f"There is no program {command[0]!r}, neither in {launch.generation.path}/bin nor elsewhere on PATH. "
            "`jupyter sepal env NAME` shows the PATH."
        )
    if launch.lock >= 0:
        os.set_inheritable(launch.lock, True)
    try:
        process.become([program, *command[1:]], env)
    except OSError as error:
        raise NotRunnableError(f"{program} can't be run: {error.strerror}.") from error
