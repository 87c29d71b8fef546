"""Environments of `requirements.txt` kernels: `uv venv` and `uv pip install`, else `venv` and pip."""

from __future__ import annotations

from ..errors import PipError
from ..process import run
from ..progress import Phase
from ..settings import Sepal
from .job import Job, explain
from .pip import install, uv_program
from .resolve import resolve
from .solution import Solution


def version(settings: Sepal) -> str | None:
    """uv's version, or that of the interpreter whose `venv` stands in for it."""
    uv = uv_program()
    try:
        done = run([uv, "--version"] if uv else [settings.interpreter, "--version"], timeout=30)
    except OSError:
        return None
    return done.stdout.strip() if not done.code else None


def create(job: Job) -> None:
    """Create a virtual environment; install the site's default requirements first, then the file with ipykernel."""
    job.reporter.phase(Phase.SOLVE)
    uv = uv_program()
    interpreter = job.settings.interpreter
    # Seeded with pip, so that `!pip list` in a cell is the kernel's own.
    command = (
        [uv, "venv", "--seed", "--no-project", "--python", interpreter, str(job.prefix)]
        if uv
        else [interpreter, "-m", "venv", str(job.prefix)]
    )
    done = job.run(command, env={"UV_CACHE_DIR": str(job.cache / "uv")})
    if done.code:
        raise explain(f"No virtual environment could be made with {interpreter}.", done.stdout, PipError)
    if job.settings.default_requirements:
        install(job, job.settings.default_requirements)
    install(job, [*job.file.pip, "ipykernel"])


def solve(job: Job) -> Solution:
    """What the site's default requirements, the file and ipykernel bring together."""
    return resolve(job, [*job.settings.default_requirements, *job.file.pip, "ipykernel"], Solution())
