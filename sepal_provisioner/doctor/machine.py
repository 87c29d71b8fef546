"""The machine: git, the engines, the disks, and the variables that kernels would inherit."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..engines import ENGINES
from ..environ import POLICY
from ..files import human_size
from ..git import version as git_version
from ..settings import Sepal
from .finding import Finding, Level

OLDEST_GIT = (2, 25)
FEW_FILES = 100_000  # what a large environment consists of
TEMPORARY_SPACE = 500_000_000  # bytes that unpacking and building wheels may take


def check_git() -> Iterator[Finding]:
    """Is git there, and not older than what we ask of it?"""
    found = git_version()
    why = "every repository of the catalog is fetched with it"
    if not found:
        yield Finding("git", Level.PROBLEM, "git is not found", why, "Install git, on the PATH of who syncs.")
        return
    numbers = tuple(int(number) for number in re.findall(r"\d+", found)[:2])
    if numbers < OLDEST_GIT:
        needed = ".".join(map(str, OLDEST_GIT))
        yield Finding(
            "git", Level.WARNING, f"git {found} is older than {needed}", why, f"Install git {needed} or later."
        )
    else:
        yield Finding("git", Level.OK, f"git {found}")


def check_engines(settings: Sepal) -> Iterator[Finding]:
    """Is there something that creates conda environments, and is it what the settings ask for?"""
    versions = {name: engine.version(settings) for name, engine in ENGINES.items()}
    for name, version in versions.items():
        if version:
            yield Finding("engines", Level.OK, version if version.startswith((name, "Python")) else f"{name} {version}")
        elif name == "uv":
            yield Finding(
                "engines",
                Level.WARNING,
                f"neither uv nor {settings.interpreter} runs",
                "no requirements.txt environment can be built on this machine",
                "pip install 'sepal-provisioner[uv]', or correct c.Sepal.requirements_python.",
            )
        else:
            yield Finding("engines", Level.INFO, f"{name} is not found", "one conda engine is enough")
    wanted = ["micromamba", "rattler"] if settings.engine == "auto" else [settings.engine]
    if not any(versions[name] for name in wanted):
        yield Finding(
            "engines",
            Level.PROBLEM,
            f"{' and '.join(wanted)}: not found",
            "no conda environment can be built on this machine",
            "pip install 'sepal-provisioner[rattler]', or install micromamba and set c.Sepal.micromamba.",
        )


def check_disks(settings: Sepal, env: Mapping[str, str]) -> Iterator[Finding]:
    """Is there room for a build: bytes and files in the store, bytes where temporary files go?"""
    root = _existing(Path(settings.store))
    free = shutil.disk_usage(root).free
    if free < settings.min_free_space:
        yield Finding(
            "disk",
            Level.PROBLEM,
            f"{human_size(free)} are free in {root}",
            f"a build begins only where {human_size(settings.min_free_space)} are (c.Sepal.min_free_space)",
            "`jupyter sepal prune --dry-run` shows what can be removed.",
        )
    else:
        yield Finding("disk", Level.OK, f"{human_size(free)} are free in {root}")
    counts = os.statvfs(root)
    if counts.f_files and counts.f_favail < FEW_FILES:  # 0: a file system that doesn't count them
        yield Finding(
            "disk",
            Level.WARNING,
            f"only {counts.f_favail} more files fit in {root}",
            "an environment has tens of thousands",
            "`jupyter sepal prune --dry-run` shows what can be removed.",
        )
    temporary = _existing(Path(env.get("TMPDIR") or tempfile.gettempdir()))
    if (left := shutil.disk_usage(temporary).free) < TEMPORARY_SPACE:
        yield Finding(
            "disk",
            Level.WARNING,
            f"{human_size(left)} are free in {temporary}",
            "pip unpacks and builds packages there",
            "Free some, or set TMPDIR for who builds.",
        )


def check_variables(env: Mapping[str, str]) -> Iterator[Finding]:
    """Which inherited variables will a launch change? That is what launches are for, and no fault."""
    for rule in POLICY:
        if value := env.get(rule.variable):
            yield Finding(
                "variables",
                Level.INFO,
                f"{rule.variable}={value} is inherited; a launch decides about it",
                rule.reason,
                "`jupyter sepal env NAME` shows what a kernel gets; c.Sepal.keep_variables makes exceptions.",
            )


def _existing(folder: Path) -> Path:
    """The folder, or the one above it that is there."""
    return next((place for place in (folder, *folder.parents) if place.is_dir()), Path("/"))
