"""A sync that finds nothing new, against `git pull` in one clone after the other.

This is what a server does every few minutes, and what the platform's own script does with its applications.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from measure import Measure, clocked, in_turns, say
from sites import commit

from sepal_provisioner import sync
from sepal_provisioner.settings import Sepal

REPOSITORIES = 60
ROUNDS = 11
BOUND = 0.25
ENVIRONMENT_FILE = """\
name: app
channels:
  - conda-forge
dependencies:
  - python=3.11
  - gdal
  - pip:
      - sepal_ui
"""


def measures(work: Path) -> Iterator[Measure]:
    """The whole of our sync against all pulls together, nothing changed since the last time.

    For information also as the process that a server starts, whose own start is then in it.
    """
    folder = work / "site"
    say(f"sync: making {REPOSITORIES} repositories")
    bare = [_bare_repository(folder, f"application_{number:02d}") for number in range(REPOSITORIES)]
    clones = [_clone(repository, folder / "clones" / repository.stem) for repository in bare]
    settings = _settings(folder, bare)
    first = sync.sync(settings)
    assert len(first.index.kernels) == REPOSITORIES, first.index.problems
    sides = {
        "ours": partial(_sync, settings),
        "git": partial(clocked, partial(_pull_all, clones)),
        "process": partial(clocked, partial(_sync_in_a_process, settings)),
    }
    taken = {name: tuple(seconds) for name, seconds in in_turns("sync", sides, ROUNDS, warm=1).items()}
    yield Measure(f"sync {REPOSITORIES} unchanged repositories", taken["ours"], taken["git"], BOUND)
    yield Measure("sync, with the start of its process", taken["process"], taken["git"])


def _bare_repository(folder: Path, name: str) -> Path:
    """A repository as a server keeps it, with one commit on `main`."""
    worktree, bare = folder / "made" / name, folder / "remotes" / f"{name}.git"
    commit(
        worktree,
        {"README.md": f"# {name}\n", "notebook.ipynb": "{}\n", "sepal_environment.yml": ENVIRONMENT_FILE},
    )
    subprocess.run(["git", "clone", "--quiet", "--bare", worktree, bare], check=True)
    return bare


def _clone(repository: Path, target: Path) -> Path:
    subprocess.run(["git", "clone", "--quiet", f"file://{repository}", target], check=True)
    return target


def _settings(folder: Path, repositories: list[Path]) -> Sepal:
    apps = [
        {"id": bare.stem, "label": bare.stem, "endpoint": "jupyter", "repository": f"file://{bare}", "branch": "main"}
        for bare in repositories
    ]
    catalog = folder / "apps.json"
    catalog.write_text(json.dumps({"apps": apps, "tags": []}), encoding="utf-8")
    return Sepal(catalogs=[str(catalog)], store=str(folder / "store"), repository_schemes=["file"], refresh_interval=0)


def _sync(settings: Sepal) -> float:
    began = time.perf_counter()
    report = sync.sync(settings)
    seconds = time.perf_counter() - began
    assert len(report.index.kernels) == REPOSITORIES and not report.index.problems, report.index.problems
    return seconds


def _sync_in_a_process(settings: Sepal) -> None:
    subprocess.run(sync.command(settings), check=True)


def _pull_all(clones: list[Path]) -> None:
    for clone in clones:
        subprocess.run(["git", "pull"], cwd=clone, check=True, capture_output=True)
