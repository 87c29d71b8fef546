"""What a site allows: where repositories may be, what environment files may name, and which entries are built."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from .catalog import text_without_credentials, without_credentials
from .envfile import EnvironmentFile
from .errors import PolicyError
from .index import Kernel
from .lockfile import LOCK_FILE
from .requirements import every_line
from .settings import Sepal

_URL = re.compile(r"[A-Za-z][\w+.-]*://[^\s'\",\]]+")
_IN_BRACKETS = re.compile(r"\b(?:channel|url|subdir_url)\s*=\s*['\"]?([^'\",\]\s]+)")
_INDEX_OPTION = re.compile(r"(?:-i|-f|--index-url|--extra-index-url|--find-links)(?:\s+|=|(?<=-[if]))(.+)")


def check_repository(url: str, settings: Sepal) -> None:
    """Raise PolicyError for a repository outside `c.Sepal.repository_hosts`."""
    if settings.repository_hosts and not _below_any(url, settings.repository_hosts):
        raise PolicyError(
            f"{without_credentials(url)} is not where repositories may be: {', '.join(settings.repository_hosts)} "
            "(c.Sepal.repository_hosts)."
        )


def check_pinned(kernel: Kernel, settings: Sepal) -> None:
    """Raise PolicyError where only pinned entries are built and this one isn't."""
    if settings.require_commit and not kernel.pinned:
        raise PolicyError(
            f"{kernel.name} is not built: its catalog entry pins no `commit`, and this site builds pinned entries only "
            f"(c.Sepal.require_commit). The commit that was last seen is {kernel.commit or 'unknown'}."
        )


def check_file(file: EnvironmentFile, checkout: Path, settings: Sepal) -> None:
    """Raise PolicyError for a channel or a host that an environment file may not name.

    What the packages themselves then ask for is theirs: a dependency of a package with a URL is not seen here.
    """
    if settings.allowed_channels:
        for channel in channels_of(file):
            if not any(_is(channel, allowed) for allowed in settings.allowed_channels):
                raise PolicyError(
                    f"{file.path}: the channel {text_without_credentials(channel)} is not allowed here, only "
                    f"{', '.join(settings.allowed_channels)} (c.Sepal.allowed_channels)."
                )
    if settings.allowed_hosts:
        locked = [requirement.line for requirement in file.lock.pip] if file.lock else []
        lines = (*every_line(checkout, file.path, file.pip), *every_line(checkout, LOCK_FILE, locked))
        for where, line in lines:
            for url in _urls(line):
                if not _below_any(url, settings.allowed_hosts):
                    raise PolicyError(
                        f"{where}: {text_without_credentials(line)[:200]}: it leads to a host that is not allowed "
                        f"here, only {', '.join(settings.allowed_hosts)} (c.Sepal.allowed_hosts)."
                    )


def channels_of(file: EnvironmentFile) -> Sequence[str]:
    """Every channel that a file names, be it for one match spec only."""
    named = [channel for channel in file.channels if channel != "nodefaults"]
    for spec in file.dependencies:
        channel, separator, _ = spec.partition("::")
        named += [channel] if separator else []
        named += _IN_BRACKETS.findall(spec)
        named += _URL.findall(spec) if not separator else []
    named += [package.url.rsplit("/", 2)[0] for package in file.lock.conda] if file.lock else []
    return tuple(dict.fromkeys(named))


def _urls(line: str) -> Iterable[str]:
    yield from _URL.findall(line)
    if (option := _INDEX_OPTION.match(line)) and "://" not in option[1] and option[1].lstrip("'\"").startswith("//"):
        yield f"https:{option[1]}"
    if scp := re.search(r"git\+([\w.-]+@[\w.-]+):(?!//)(\S+)", line):
        yield f"ssh://{scp[1]}/{scp[2]}"


def _is(channel: str, allowed: str) -> bool:
    """Whether a channel is an allowed one, by name or as a URL; a label below it (`conda-forge/label/x`) is not."""
    return _plain(channel) == _plain(allowed)


def _plain(channel: str) -> str:
    return re.sub(r"\Ahttps://conda\.anaconda\.org/", "", channel.rstrip("/").lower())


def _below_any(url: str, places: Iterable[str]) -> bool:
    """Whether a URL is at one of these hosts, or hosts with a path."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        found = host + (f":{parts.port}" if parts.port else "")
    except ValueError:
        return False
    path = [part for part in parts.path.lower().split("/") if part]
    if not host or ".." in path:
        return False
    for place in places:
        wanted, *owner = [part for part in place.lower().split("/") if part]
        if wanted in (host, found) and path[: len(owner)] == owner:
            return True
    return False
