"""A local project that a pip line installs: the files that decide what it is, none of which may lead elsewhere."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from .errors import EnvironmentFileError
from .files import resolve_inside

WALK_LIMIT = 100_000  # files and folders of one project

_METADATA = ("pyproject.toml", "setup.py", "setup.cfg", "MANIFEST.in")


def project_files(checkout: Path, relative: str, editable: bool, where: str) -> Iterator[str]:
    """The files that decide what a local project installs, relative to the repository's root.

    An editable project's code is read live from the checkout, so only its metadata counts; a project that is copied
    counts with every file. Raises EnvironmentFileError, which begins with `where`, for what is no project and for one
    that holds a link out of the repository: whatever builds a package follows links.
    """
    try:
        yield from _project_files(checkout, relative, editable, where)
    except OSError as error:
        raise EnvironmentFileError(f"{where}: {relative[:200]} can't be read: {error.strerror}.") from None


def _project_files(checkout: Path, relative: str, editable: bool, where: str) -> Iterator[str]:
    folder = checkout / relative
    if folder.is_file():
        yield relative
        return
    metadata = [name for name in _METADATA if (folder / name).is_file()]
    if "pyproject.toml" not in metadata and "setup.py" not in metadata:
        raise EnvironmentFileError(
            f"{where}: {relative[:200]} holds no Python project (neither pyproject.toml nor setup.py)."
        )
    found = _walk(checkout, folder, where)
    if not editable:
        yield from found
        return
    for name in [*metadata, *sorted(path.name for path in folder.glob("*requirements*.txt"))]:
        yield (Path(relative) / name).as_posix()


def _walk(checkout: Path, folder: Path, where: str) -> list[str]:
    """Every file of a project, sorted, without compiled ones; a link counts as what it leads to."""
    root = checkout.resolve()
    found: list[str] = []
    pending = [folder.resolve()]
    visited = set(pending)
    entries = 0
    while pending:
        for path in sorted(pending.pop().iterdir()):
            entries += 1
            if entries > WALK_LIMIT:
                raise EnvironmentFileError(f"{where}: it holds more than {WALK_LIMIT} files and folders.")
            mode = path.lstat().st_mode
            if path.name == ".git" and not stat.S_ISLNK(mode):
                continue
            target = path
            if stat.S_ISLNK(mode):
                target = _link_target(root, path, where)
                mode = target.stat().st_mode if target.exists() else 0
            if stat.S_ISDIR(mode) and target not in visited:
                visited.add(target)
                pending.append(target)
            elif stat.S_ISREG(mode) and path.parent.name != "__pycache__":
                found.append(path.relative_to(root).as_posix())
    return sorted(found)


def _link_target(root: Path, link: Path, where: str) -> Path:
    """Where a link in a project leads, which has to be in the repository and not among git's own files."""
    relative = link.relative_to(root).as_posix()
    try:
        target = resolve_inside(root, relative)
    except ValueError as error:
        raise EnvironmentFileError(f"{where}: the link {error}.") from None
    if ".git" in target.relative_to(root).parts:
        raise EnvironmentFileError(f"{where}: the link {relative[:200]} leads to git's own files.")
    return target
