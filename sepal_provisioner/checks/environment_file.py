"""The environment file and its lock, as the build reads them: the parser's own errors and warnings, and the policy."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..errors import EnvironmentFileError, PolicyError
from ..lockfile import LOCK_FILE, conda_platform
from ..lockreader import LOCK_BYTES
from ..policy import check_file
from ..requirements import pip_target, read_text
from .finding import Finding, finding
from .subject import Environment, Subject, fault_place

_PLATFORM = re.compile(r"^#\s*platform:\s*(\S+)", re.MULTILINE)
_LINE = re.compile(r"line (\d+)\Z")


def check(subject: Subject) -> Iterator[Finding]:
    """Whether there is an environment file that can be built here."""
    environment = subject.environment
    if environment is None:
        yield finding("no-environment-file", "Neither sepal_environment.yml nor requirements.txt: this is no kernel.")
        return
    missing = list(_projects(subject, environment))
    yield from missing
    if environment.fault:
        yield from _fault(subject, environment, missing)
    read = environment.file or environment.parsed
    for problem in read.warnings if read else ():
        line = _LINE.match(problem.place)
        if problem.place == LOCK_FILE:
            code = "lock-unused" if environment.path.endswith(".txt") else "lock-incomplete"
            yield finding(code, f"{problem.message}.", LOCK_FILE)
        else:
            message = f"{problem.message}."
            yield finding("environment-file-ignored", message, environment.path, int(line[1]) if line else 0)
    if environment.file is None:
        return
    try:
        check_file(environment.file, subject.root, subject.settings)
    except PolicyError as error:
        where, line_number, message = _refused(error, environment)
        yield finding("not-allowed", message, where, line_number)


def _refused(error: PolicyError, environment: Environment) -> tuple[str, int, str]:
    """(file, line, message) of a refusal, which quotes the channel or the pip line that it is about."""
    prefix = re.match(r"([^\s:]+): (?:line (\d+): )?", error.message)
    where, line = (prefix[1], int(prefix[2] or 0)) if prefix else (environment.path, 0)
    message = error.message[prefix.end() :] if prefix else error.message
    quoted = [place for place in environment.places if place.section != "name" and f" {place.text}" in f" {message}"]
    if where == environment.path and not line and quoted:
        line = min(quoted, key=lambda place: message.find(place.text)).line
    return where, line, message


def _projects(subject: Subject, environment: Environment) -> Iterator[Finding]:
    """Pip lines that install a folder which holds no Python project."""
    for place in environment.places:
        option, target = pip_target(place.text) if place.section == "pip" else ("", "")
        folder = subject.root / re.sub(r"\[[\w,.-]+\]$", "", target)
        if option not in ("-e", "path") or not folder.is_dir():
            continue
        if not any((folder / name).is_file() for name in ("pyproject.toml", "setup.py")):
            message = f"`{place.text}` installs a folder without pyproject.toml and setup.py."
            yield finding("no-python-project", message, environment.path, place.line)


def _fault(subject: Subject, environment: Environment, missing: list[Finding]) -> Iterator[Finding]:
    """Why the file, its lock or what it refers to can't be read."""
    assert environment.fault is not None
    where, line, message = fault_place(environment.fault)
    if where == LOCK_FILE:
        code = "lock-unreadable"
        if (said := _lock_platform(subject)) and said != conda_platform():
            code = "lock-platform"
        yield finding(code, message, where, line)
    elif not missing or "holds no Python project" not in message:
        quoted = [place.line for place in environment.places if message.startswith(place.text)]
        yield finding("environment-file", message, where, line or (quoted[0] if quoted else 0))


def _lock_platform(subject: Subject) -> str:
    """The platform that a lock says it is for, or ""."""
    try:
        found = _PLATFORM.search(read_text(subject.root, LOCK_FILE, LOCK_BYTES))
    except EnvironmentFileError:
        return ""
    return found[1] if found else ""
