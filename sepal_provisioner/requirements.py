"""Requirement lines as pip reads them, and the local files that they refer to."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .errors import EnvironmentFileError
from .files import read_bounded, resolve_inside
from .projects import project_files

FILE_LIMIT = 256_000  # bytes of an environment or requirements file
REFERENCE_LIMIT = 2_000  # local files that one environment may depend on
REFERENCE_BYTES = 200_000_000
INCLUDE_LIMIT = 100  # requirements files that include each other

_OPTIONS = {"--requirement": "-r", "--constraint": "-c", "--editable": "-e", "--find-links": "-f"}
_REMOTE = re.compile(r"(?:https?|ftp|ssh|s3)://|(?:git|hg|svn|bzr)\+", re.IGNORECASE)  # else it's a path to pip
_NAMED = re.compile(r"[A-Za-z0-9][\w.-]*\s*(?:\[[^\]]*\])?\s*@\s*(.+)")  # PEP 508's `name @ URL`
_ARCHIVES = (".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2")
_EXPANDED = re.compile(r"\$\{\w+\}")  # installers put the variable's value there


def requirement_lines(text: str) -> Iterator[tuple[int, str]]:
    """The logical lines of a requirements file: comments gone, continuations joined, with their line numbers."""
    pending, start = "", 0
    for number, raw in enumerate(text.splitlines(), 1):
        line = _uncommented(raw)
        start = start or number
        if line.endswith("\\"):
            pending += line[:-1].rstrip() + " "
            continue
        if joined := (pending + line).strip():
            yield start, joined
        pending, start = "", 0
    if pending.strip():
        yield start, pending.strip()


def _uncommented(line: str) -> str:
    return re.sub(r"(^|\s)#.*$", "", line).strip()


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
    line = _uncommented(line)
    _refuse_hidden_option(line, where)
    option, target = pip_target(line)
    if not option or _REMOTE.match(target):
        return
    if option == "-f":
        if not _is_file_url(target):
            yield from _archives(checkout, _inside(checkout, folder / target, line, where), line, where)
    elif option in ("-r", "-c"):
        relative = _inside(checkout, folder / _local_path(target, line, where), line, where)
        if relative in included:
            return
        included.add(relative)
        if len(included) > INCLUDE_LIMIT:
            raise EnvironmentFileError(f"{where}: more than {INCLUDE_LIMIT} requirements files include each other.")
        yield relative
        for number, nested in requirement_lines(read_text(checkout, relative)):
            # A nested `-r` is relative to its own file, a nested path to the folder the installer runs in.
            nested_option, _ = pip_target(nested)
            base = Path(relative).parent if nested_option in ("-r", "-c", "-f") else folder
            yield from _references(checkout, base, nested, f"{relative}: line {number}", included)
    else:
        project = _local_path(re.sub(r"\[[\w,.-]+\]$", "", target), line, where)
        relative = _inside(checkout, folder / project, line, where)
        yield from project_files(checkout, relative, option == "-e", f"{where}: {line[:200]}")


def _archives(checkout: Path, relative: str, line: str, where: str) -> Iterator[str]:
    """What an installer may take from a folder that `-f` names: the packages right in it. A page of links is a file."""
    folder = checkout / relative
    if not folder.is_dir():
        yield relative
        return
    try:
        names = sorted(path.name for path in folder.iterdir() if path.name.lower().endswith(_ARCHIVES))
    except OSError as error:
        raise EnvironmentFileError(f"{where}: {relative[:200]} can't be read: {error.strerror}.") from None
    for name in names:
        yield _inside(checkout, Path(relative) / name, line, where)


def pip_target(line: str) -> tuple[str, str]:
    """What a requirement line refers to: ("-r" | "-c" | "-e" | "-f" | "path", target), or ("", "") for nothing local.

    The target of `-r` and `-c` may be a URL.
    """
    line = _uncommented(line)
    if line.startswith("-"):
        option, values = _option(line)
        target = values[0] if values else ""
        if option == "-e" and (named := _NAMED.match(target)):
            target = named[1]
        if not option or not target or (option in ("-e", "-f") and _REMOTE.match(target)):
            return "", ""
        return option, target
    bare = line.split(";", maxsplit=1)[0].strip()
    if named := _NAMED.match(bare):
        bare = named[1]
    if _REMOTE.match(bare):
        return "", ""
    plain = re.split(r"\s-", bare, maxsplit=1)[0]  # without options, which may hold slashes too
    local = bare.startswith(".") or "/" in plain or bare.lower().endswith(_ARCHIVES) or _is_file_url(bare)
    return ("path", bare) if local else ("", "")


def _option(line: str) -> tuple[str, list[str]]:
    """(the short form of the option that refers to something, or "", and all words behind it), as pip splits a line."""
    first, *rest = _words(line) or [""]
    if first[:2] in _OPTIONS.values():
        return first[:2], [first[2:], *rest] if first[2:] else rest
    name, equals, value = first.partition("=")
    return _OPTIONS.get(name, ""), [value, *rest] if equals else rest


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:  # a quote that is never closed
        return line.split()


def _is_file_url(target: str) -> bool:
    return target[:5].lower() == "file:"


def _local_path(target: str, line: str, where: str) -> str:
    """The path that a reference names, as an installer reads it."""
    fault = ""
    if _EXPANDED.search(target):
        fault = "a local path may not depend on a variable"
    elif _is_file_url(target):
        try:
            parts = urlsplit(target)
            if parts.netloc in ("", "localhost"):
                return unquote(parts.path)
        except ValueError:
            pass
        fault = "this file: URL names no path in the repository"
    if fault:
        raise EnvironmentFileError(f"{where}: {line[:200]}: {fault}.")
    return target


def _refuse_hidden_option(line: str, where: str) -> None:
    """Refuse a line in which an installer finds a local reference that `pip_target` doesn't: one behind another option
    or abbreviated."""
    if not line.startswith("-"):
        return
    for number, word in enumerate(_words(line)):
        name = word.partition("=")[0]
        if word.startswith("--"):
            known = any(option.startswith(name) for option in _OPTIONS)
        else:
            known = name[:2] in _OPTIONS.values()
        if known and (number or (word.startswith("--") and name not in _OPTIONS)):
            raise EnvironmentFileError(f"{where}: {line[:200]}: write {name[:50]} in full and on a line of its own.")
    option, values = _option(line)
    if option and len(values) > 1 and not _REMOTE.match(values[0]):
        raise EnvironmentFileError(f"{where}: {line[:200]}: {option} takes one path; quote one that holds blanks.")


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
