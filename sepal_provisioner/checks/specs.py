"""The known traps of an environment file that is valid: what it asks for works today and surprises somebody later."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..envfile import spec_name
from ..requirements import every_line
from .finding import Finding, finding
from .subject import Environment, Subject

# Wheels that bring a PROJ or GDAL of their own, and packages that pull them in where conda has not installed them.
WHEELS = frozenset({"rasterio", "pyproj", "fiona", "pyogrio", "gdal"})
_PULLS = {
    "geopandas": {"pyproj", "pyogrio"},
    "rioxarray": {"rasterio", "pyproj"},
    "cartopy": {"pyproj"},
    "contextily": {"rasterio"},
    "rasterstats": {"rasterio", "fiona"},
}
_SHARES = WHEELS | {"libgdal", "libgdal-core", "proj", "geopandas", "rioxarray", "cartopy", "rasterstats"}
_MINOR = re.compile(r"(?:(?<![<>!~])==?|\s)\s*\d+\.\d+|~=\s*\d+\.\d+\.|<=?\s*\d+\.\d+")
_OLD = re.compile(r"(?:(?<![<>!])==?|~=|<=|\s)\s*[0-5](?![\d])|<\s*[0-5](?![\d])|<\s*6(?:\.0)*(?![\d.])")
_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*)\s*(?:\[[^\]]*\])?(?P<rest>.*)")
_EGG = re.compile(r"#(?:.*&)?egg=([A-Za-z0-9][\w.-]*)")


def check(subject: Subject) -> Iterator[Finding]:
    """Every trap in what the environment file asks for."""
    environment = subject.environment
    if environment is None or environment.parsed is None:
        return
    if environment.parsed.kind == "conda":
        yield from _conda_traps(subject, environment)
    yield from _pip_traps(subject, environment)
    yield from _old_ipykernel(environment)


def requirement_name(line: str) -> str:
    """The package that a requirement line names, as PyPI spells it; "" for an option, a path or a bare URL."""
    if egg := _EGG.search(line):
        return plain_name(egg[1])
    found = _REQUIREMENT.match(line)
    if not found or re.match(r"[\w.+-]*(?:://|/)", line) or line.startswith((".", "-")):
        return ""
    return plain_name(found["name"])


def plain_name(name: str) -> str:
    """PEP 503's spelling of a package's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _conda_traps(subject: Subject, environment: Environment) -> Iterator[Finding]:
    file, path = environment.parsed, environment.path
    assert file is not None
    if line := environment.line("prefix"):
        yield finding("prefix-present", "`prefix:` is ignored.", path, line)
    if file.name and _letters(file.name) != _letters(subject.name):
        message = f"`name: {file.name}` counts for nothing: the kernel is {subject.kernel_name}, after the repository."
        yield finding("environment-name", message, path, environment.line("name"))
    channels = [channel.rstrip("/").rsplit("/", 1)[-1] for channel in file.channels]
    left_out = subject.settings.channel_mirrors.get("defaults") == ""
    if "defaults" in channels and "conda-forge" in channels and not left_out:
        message = (
            "`defaults` beside `conda-forge`: its packages are built against other libraries, and it has a licence."
        )
        yield finding("defaults-channel", message, path, environment.line("channels", "defaults"))
    locked = environment.file is not None and environment.file.lock is not None
    python = [spec for spec in file.dependencies if spec_name(spec) == "python"]
    if not locked and not any(_MINOR.search(_version_part(spec)) for spec in python):
        said = (
            f"`{python[0]}` leaves the minor version of Python open"
            if python
            else "Nothing says which Python is wanted"
        )
        message = f"{said}: the next build may get another one."
        yield finding("python-unpinned", message, path, environment.line("dependencies", python[0] if python else ""))


def _pip_traps(subject: Subject, environment: Environment) -> Iterator[Finding]:
    """Wheels over conda's PROJ and GDAL, in the pip section or in what it includes; GDAL from source."""
    file = environment.parsed
    assert file is not None
    names = {plain_name(name) for name in file.names()}
    lines = every_line(subject.root, file.path, file.pip) if environment.file else ((file.path, t) for t in file.pip)
    for where, text in lines:
        name = requirement_name(text)
        nested = re.match(r"(.+): line (\d+)\Z", where)
        at = (nested[1], int(nested[2])) if nested else (file.path, environment.line("pip", text))
        if file.kind == "requirements":
            given = {requirement_name(line) for line in subject.settings.default_requirements}
            if name == "gdal" and name not in given and "@" not in text:
                message = f"`{text}` is compiled when it is installed, and fits one version of the system's GDAL only."
                yield finding("pip-gdal-source", message, *at)
        elif shared := sorted(names & _SHARES):
            brings = name in WHEELS or not _PULLS.get(name, set()) <= names
            if brings and "git+" not in text:  # what is built from source finds conda's own libraries
                kind = "is a wheel that brings its own" if name in WHEELS else "pulls in wheels with their own"
                message = f"`{text}` {kind} PROJ or GDAL, over conda's ({', '.join(shared)})."
                yield finding("pip-wheel-over-conda", message, *at)


def _old_ipykernel(environment: Environment) -> Iterator[Finding]:
    for place in environment.places:
        if place.section == "dependencies":
            old = spec_name(place.text) == "ipykernel" and _OLD.search(_version_part(place.text))
        else:
            found = _REQUIREMENT.match(place.text) if place.section == "pip" else None
            old = found and plain_name(found["name"]) == "ipykernel" and _OLD.search(found["rest"])
        if old:
            message = (
                f"`{place.text}` asks for an ipykernel before 6, which has no debugger and is no longer maintained."
            )
            yield finding("ipykernel-old", message, environment.path, place.line)


def _letters(name: str) -> str:
    """A name without what people write differently in it: `se.plan` and `seplan` are nobody's mistake."""
    return re.sub(r"[-_. ]", "", name).lower()


def _version_part(spec: str) -> str:
    """What a conda match spec says behind the package's name."""
    return re.sub(r"\A(?:[^\s\[\]]+::)?[A-Za-z0-9_*^][A-Za-z0-9_.*+-]*", "", spec)
