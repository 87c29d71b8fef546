"""What creates a prefix: a module for each engine, all with the same three functions.

To add one, write a module that satisfies `Engine`, list it in ENGINES, and say in `choose` when it is taken; the
contract test then drives it.
"""

from __future__ import annotations

from typing import Protocol

from ..envfile import EnvironmentFile
from ..errors import NoEngineError
from ..settings import Sepal
from . import micromamba, rattler, uv
from .job import Job
from .solution import Solution

__all__ = ["ENGINES", "Engine", "Job", "Solution", "choose"]


class Engine(Protocol):
    """What an engine module offers."""

    def version(self, settings: Sepal) -> str | None:
        """The engine's version, or None when it is not here."""

    def create(self, job: Job) -> None:
        """Create `job.prefix` and install what the job asks for, pip section included; report progress.

        Raises BuildError or one of its kinds. What it leaves behind then is removed by the caller.
        """

    def solve(self, job: Job) -> Solution:
        """What `create` would install, pip section included; `job.prefix` is not made, its parent is there for us.

        Raises what `create` would.
        """


ENGINES: dict[str, Engine] = {"micromamba": micromamba, "rattler": rattler, "uv": uv}


def choose(file: EnvironmentFile, settings: Sepal) -> str:
    """The engine for an environment file. Raises NoEngineError, which says how to get one."""
    if file.kind == "requirements":
        return "uv"
    wanted = ["micromamba", "rattler"] if settings.engine == "auto" else [settings.engine]
    for name in wanted:
        if ENGINES[name].version(settings) is not None:
            return name
    missing = {
        "micromamba": "micromamba is not found (c.Sepal.micromamba, MAMBA_EXE, PATH)",
        "rattler": "py-rattler is not installed beside Jupyter",
    }
    raise NoEngineError(
        f"Nothing here can create a conda environment: {' and '.join(missing[name] for name in wanted)}. "
        "Install one: pip install 'sepal-provisioner[rattler]'"
    )
