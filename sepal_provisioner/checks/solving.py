"""The dry run: whether the environment can be had at all, how large it is, and what pip would put over conda's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..dryrun import dry_run
from ..engines import Solution
from ..errors import NoEngineError, SepalError
from ..files import human_size
from ..store import Store
from ..temporary import TemporaryFolder
from .finding import RULES, Finding, finding
from .specs import WHEELS, plain_name, requirement_name
from .subject import Environment, Subject

CONDA_DATA = ("proj", "libgdal", "libgdal-core", "gdal")


def check(subject: Subject) -> Iterator[Finding]:
    """Solve the environment file with the engine that would build it; nothing is installed."""
    environment = subject.environment
    if environment is None or environment.file is None:
        return
    store = Store(Path(subject.settings.store))
    with TemporaryFolder("solve") as folder:
        # The store's own cache saves a download of the channels' indexes, where there is a store.
        cache = store.packages if store.packages.is_dir() and store.writable() else folder / "pkgs"
        try:
            engine, solution = dry_run(environment.file, subject.root, folder, cache, subject.settings)
        except SepalError as error:
            yield _failure(error, environment)
            return
    yield from (finding("not-solved", f"{note}.", environment.path) for note in solution.notes)
    yield finding("solved", _summary(solution, engine), environment.path)
    yield from _wheels(environment, solution)


def _failure(error: SepalError, environment: Environment) -> Finding:
    code = "not-solved" if isinstance(error, NoEngineError) or error.code not in RULES else error.code
    return finding(code, error.message, environment.path, detail=error.detail)


def _summary(solution: Solution, engine: str) -> str:
    parts = [_counted(len(solution.conda), "conda package")] if solution.conda else []
    if parts and solution.size:
        parts = [f"{parts[0]}, {human_size(solution.size)} to download"]
    if solution.pip:
        parts.append(f"{_counted(len(solution.pip), 'pip package')}, dependencies included")
    return f"Solved by {engine}: {' and '.join(parts) or 'nothing to install'}."


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _wheels(environment: Environment, solution: Solution) -> Iterator[Finding]:
    """Wheels that nobody named: a dependency of the pip section brings them over conda's PROJ or GDAL."""
    conda = {plain_name(text.split()[0]) for text in solution.conda}
    named = {requirement_name(place.text) for place in environment.places if place.section == "pip"}
    pulled = {plain_name(text.split()[0]) for text in solution.pip} & WHEELS
    shared = [name for name in CONDA_DATA if name in conda]
    if shared and (over := sorted(pulled - named - conda)):
        message = f"The pip section pulls in {', '.join(over)}, with a PROJ or GDAL over conda's {', '.join(shared)}."
        remedy = f"Add {', '.join(over)} to the conda dependencies."
        yield finding("pip-wheel-over-conda", message, environment.path, environment.line("pip"), remedy=remedy)
