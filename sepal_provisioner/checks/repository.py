"""From what an author names, a folder or a URL, to what is checked."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ..catalog import repository_fault, repository_name, without_credentials
from ..errors import RepositoryError, SettingsError
from ..git import Git, Source, look_at_tree
from ..settings import Sepal
from ..temporary import TemporaryFolder
from .subject import Subject

FILES_LIMIT = 20_000
_SKIPPED = frozenset({".git", ".ipynb_checkpoints", "node_modules", "__pycache__", ".venv", "venv", ".tox"})


def is_url(target: str) -> bool:
    """Whether a target is a repository's URL and no path."""
    return "://" in target or (bool(re.match(r"[\w.-]+@[\w.-]+:", target)) and not os.path.exists(target))


@contextlib.contextmanager
def subject_of(target: str, settings: Sepal, branch: str = "") -> Iterator[Subject]:
    """What is checked: a working tree as it stands, or a repository, cloned for as long as the block lasts.

    Raises RepositoryError and SettingsError.
    """
    if not is_url(target):
        if branch:
            raise SettingsError("--branch is for a URL; a folder is checked as it stands.")
        yield tree(Path(target), settings)
        return
    if fault := repository_fault(target, settings.schemes):
        raise RepositoryError(f"{fault}.")
    with TemporaryFolder("check") as folder:
        root = folder / repository_name(target)
        git = Git(root, timeout=settings.git_timeout, schemes=settings.schemes)
        git.update(Source(target, branch or None), folder / "aside")
        found = look_at_tree(root, timeout=settings.git_timeout).files
        more = len(found) > FILES_LIMIT
        yield Subject(root, root.name, settings, without_credentials(target), branch, found[:FILES_LIMIT], more)


def tree(path: Path, settings: Sepal) -> Subject:
    """A working tree as it stands, uncommitted changes included. Raises SettingsError where there is no folder."""
    try:
        root = path.expanduser().resolve(strict=True)
        if not root.is_dir():
            raise NotADirectoryError
    except (OSError, RuntimeError):
        raise SettingsError(f"There is no folder {path}. Name a repository's folder, or its URL.") from None
    known = look_at_tree(root, timeout=settings.git_timeout)
    whole = known.root is not None and known.root.resolve() == root
    files = known.files or tuple(_walk(root))  # a folder that git ignores, or knows nothing of
    remote = known.origin if whole else ""
    return Subject(
        root,
        repository_name(remote) if remote else root.name,
        settings,
        remote,
        known.branch if whole else "",
        files[:FILES_LIMIT],
        len(files) > FILES_LIMIT,
    )


def _walk(root: Path) -> Iterator[str]:
    """The files of a folder that git knows nothing of, one more than are looked at."""
    count = 0
    pending = [os.fspath(root)]
    while pending:
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.is_dir(follow_symlinks=False):
                    pending += [] if entry.name in _SKIPPED else [entry.path]
                    continue
                yield os.fsencode(os.path.relpath(entry.path, root)).decode(errors="replace")
                count += 1
                if count > FILES_LIMIT:
                    return
