"""Make the example's git repositories and its catalog.

A real catalog names repositories on a git host. Here the folders in `repositories/` stand in for them: each becomes a
repository of its own, committed again whenever its files change.
"""

from __future__ import annotations

import shutil
import string
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent


def prepare(work: Path) -> Path:
    """Bring the repositories and the catalog in `work` up to date; returns the catalog's path."""
    repositories = work / "repositories"
    for source in sorted((HERE / "repositories").iterdir()):
        if source.is_dir():
            _commit(source, repositories / source.name)
    template = string.Template((HERE / "apps.json").read_text(encoding="utf-8"))
    catalog = work / "apps.json"
    catalog.write_text(template.substitute(REPOSITORIES=repositories), encoding="utf-8")
    return catalog


def _commit(source: Path, target: Path) -> None:
    if not (target / ".git").is_dir():
        target.mkdir(parents=True, exist_ok=True)
        _git(target, "init", "--quiet", "--initial-branch=main")
    shutil.copytree(source, target, dirs_exist_ok=True)
    _git(target, "add", "--all")
    if _git(target, "status", "--porcelain"):
        _git(target, "commit", "--quiet", "--message=Example")


def _git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=Example", "-c", "user.email=example@example.org", "-c", "commit.gpgsign=false")
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
