"""Requirement lines as pip reads them, and the local files that they refer to."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from .errors import EnvironmentFileError
from .files import read_bounded, resolve_inside

FILE_LIMIT = 256_000  # bytes of an environment or requirements file
REFERENCE_LIMIT = 2_000  # local files that one environment may depend on
REFERENCE_BYTES = 200_000_000
INCLUDE_LIMIT = 100  # requirements files that include each other

_PROJECT_FILES = ("pyproject.toml", "setup.py", "setup.cfg", "MANIFEST.in")


def requirement_lines(text: str) -> Iterator[tuple[int, str]]:
    """The logical lines of a requirements file: comments gone, continuations joined, with their line numbers."""
    pending, start = "", 0
    for number, raw in enumerate(text.splitlines(), 1):
        line = re.sub(r"(^|\s)#.*$", "", raw).strip()
        start = start or number
        if line.endswith("\\"):
            pending += line[:-1].rstrip() + " "
            continue
        if joined := (pending + line).strip():
            yield start, joined
        pending, start = "", 0
    if pending.strip():
        yield start, pending.strip()


def local_files(checkout: Path, path: str, lines: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """The local files that decide what requirement lines of the file `path` mean: (path in the checkout, sha256).

    Raises EnvironmentFileError for one that is missing, leads out of the repository, or cannot be read.
    """
    folder = Path(path).parent
    found: dict[str, str] = {}
    included: set[str] = set()
    for line in lines:
        for reference in _references(checkout, folder, line, path, included):
            if len(found) >= REFERENCE_LIMIT:
                raise EnvironmentFileError(
                    f"{path}: it refers to more than {REFERENCE_LIMIT} local files; publish the package instead."
                )
            if reference not in found:
                found[reference] = _digest(checkout, reference)
    return tuple(sorted(found.items()))


def every_line(checkout: Path, path: str, lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each requirement line and, after it, those of the local files that it includes: (where it stands, the line).

    Raises EnvironmentFileError for a file that cannot be read.
    """
    seen: set[str] = set()
    pending = [(path, Path(path).parent, line) for line in reversed(list(lines))]
    while pending:
        where, folder, line = pending.pop()
        yield where, line
        option, target = pip_target(line)
        if option in ("-r", "-c") and "://" not in target:
            relative = _inside(checkout, folder / target, line, where)
            if relative not in seen and len(seen) < INCLUDE_LIMIT:
                seen.add(relative)
                nested = list(requirement_lines(read_text(checkout, relative)))
                base = Path(relative).parent
                pending += [(f"{relative}: line {number}", base, text) for number, text in reversed(nested)]


def read_text(checkout: Path, relative: str, limit: int = FILE_LIMIT) -> str:
    """A text file of the repository, of at most `limit` bytes. Raises EnvironmentFileError."""
    try:
        data = read_bounded(resolve_inside(checkout, relative), limit)
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise EnvironmentFileError(f"{relative}: it is not UTF-8 (byte {error.start}).") from None
    except ValueError as error:
        raise EnvironmentFileError(f"{relative}: {error}.") from None
    except OSError as error:
        raise EnvironmentFileError(f"{relative}: it can't be read: {error.strerror}.") from None


def _references(checkout: Path, folder: Path, line: str, where: str, included: set[str]) -> Iterator[str]:
    """The local files that a requirement line depends on, relative to the repository's root.

    `included` are the files that were read already: one that includes itself a hundred times is read once.
    """
    option, target = pip_target(line)
    if option in ("-r", "-c"):
        if "://" in target:
            return
        relative = _inside(checkout, folder / target, line, where)
        if relative in included:
            return
        included.add(relative)
        if len(included) > INCLUDE_LIMIT:
            raise EnvironmentFileError(f"{where}: more than {INCLUDE_LIMIT} requirements files include each other.")
        yield relative
        for number, nested in requirement_lines(read_text(checkout, relative)):
            # A nested `-r` is relative to its own file, a nested path to the folder the installer runs in.
            nested_option, _ = pip_target(nested)
            base = Path(relative).parent if nested_option in ("-r", "-c") else folder
            yield from _references(checkout, base, nested, f"{relative}: line {number}", included)
    elif option in ("-e", "path"):
        project = re.sub(r"\[[\w,.-]+\]$", "", target).removeprefix("file:")
        relative = _inside(checkout, folder / project, line, where)
        yield from _project_files(checkout, relative, option == "-e", line, where)


def pip_target(line: str) -> tuple[str, str]:
    """What a requirement line refers to locally: ("-r" | "-c" | "-e" | "path", target), or ("", "")."""
    match = re.match(r"(-r|--requirement|-c|--constraint|-e|--editable)(?:\s+|=|(?<=-[rce]))(.+)", line)
    if match:
        option = {"--requirement": "-r", "--constraint": "-c", "--editable": "-e"}.get(match[1], match[1])
        target = match[2].strip().strip("\"'")
        if option == "-e" and ("://" in target or re.match(r"\w+\+", target)):
            return "", ""
        return option, target
    bare = line.split(";", maxsplit=1)[0].strip()
    if bare.startswith((".", "/")) or bare.startswith("file:"):
        return "path", bare
    return "", ""


def _project_files(checkout: Path, relative: str, editable: bool, line: str, where: str) -> Iterator[str]:
    """The files that decide what a local project installs.

    An editable project's code is read live from the checkout, so only its metadata counts; a project that is copied
    counts with every file.
    """
    folder = checkout / relative
    if folder.is_file():
        yield relative
        return
    metadata = [name for name in _PROJECT_FILES if (folder / name).is_file()]
    if "pyproject.toml" not in metadata and "setup.py" not in metadata:
        raise EnvironmentFileError(
            f"{where}: {line[:200]}: {relative} holds no Python project (neither pyproject.toml nor setup.py)."
        )
    if editable:
        names = [*metadata, *sorted(path.name for path in folder.glob("*requirements*.txt"))]
        for name in names:
            yield _inside(checkout, Path(relative) / name, line, where)
        return
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(checkout).parts
        if ".git" in parts or "__pycache__" in parts or path.is_symlink() or not path.is_file():
            continue
        yield Path(*parts).as_posix()


def _inside(checkout: Path, target: Path, line: str, where: str) -> str:
    try:
        resolved = resolve_inside(checkout, target.as_posix())
        exists = resolved.exists()
    except (ValueError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise EnvironmentFileError(f"{where}: {line[:200]}: {reason}.") from None
    if not exists:
        raise EnvironmentFileError(f"{where}: {line[:200]}: there is no {target.as_posix()[:200]} in the repository.")
    return resolved.relative_to(checkout.resolve()).as_posix()


def _digest(checkout: Path, relative: str) -> str:
    try:
        data = read_bounded(checkout / relative, REFERENCE_BYTES)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise EnvironmentFileError(f"{relative}: it can't be read: {reason}.") from None
    return hashlib.sha256(data).hexdigest()
