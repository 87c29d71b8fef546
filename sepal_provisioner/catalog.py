"""A catalog's document as values: which applications there are, and what is wrong with which entry."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from .errors import CatalogError
from .files import decode_json

CATALOG_LIMIT = 20_000_000  # bytes
APPS_LIMIT = 20_000
TEXT_LIMIT = 2_000

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
_SCP = re.compile(r"(?:(?P<user>[\w.-]+)@)?(?P<host>[\w.-]+):(?P<path>[^:].*)\Z")  # git@host:owner/name
_HELPER = re.compile(r"[A-Za-z0-9+.-]*::")  # git's own rule: gitremote-helpers(7)
_URL_IN_TEXT = re.compile(r"[A-Za-z][\w+.-]*://(?:(?!https?://)[^\s'\"<>])*")
# A password with an unescaped `/`, `?` or `#` ends the host part too early: `https://user:pa/ss@host/name`.
_TORN_PASSWORD = re.compile(r"\A([A-Za-z][\w+.-]*://)[^/@?#\[]*:(?!\d*(?:[/?#]|\Z))[^@]*@")
_USER_ANYWHERE = re.compile(r"(:/+)(?!git@)[^\s/@]+@")  # also of a URL in a URL, or one that lost a slash as a path
_BAD_BRANCH = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|\.lock(/|\Z)|(\A|/)\.|[./]\Z")


@dataclass(frozen=True)
class Problem:
    """Something wrong in an outside document; everything else in it goes on working.

    `place` is the path to the fault, as in `apps[7].repository` or `line 4`.
    """

    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


@dataclass(frozen=True)
class App:
    """One catalog entry. `branch` None means the remote's HEAD; `commit` (40 hex digits) wins over it."""

    id: str
    label: str
    endpoint: str = ""
    repository: str = ""
    branch: str | None = None
    commit: str | None = None
    hidden: bool = False
    skip: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)  # every other key, as it came

    @property
    def is_kernel(self) -> bool:
        """Whether the platform would run it in Jupyter: what may ship an environment file."""
        return self.endpoint == "jupyter" and bool(self.repository)

    @property
    def name(self) -> str:
        """The repository's name, which is the checkout's folder: `eSBAE_notebooks`."""
        return repository_name(self.repository)

    @property
    def kernel_name(self) -> str:
        """What notebooks say in their metadata: `venv-esbae_notebooks`."""
        return f"venv-{self.name.lower()}"


@dataclass(frozen=True)
class Catalog:
    """A document's sound entries, in order, and the problems of the others."""

    apps: tuple[App, ...]
    problems: tuple[Problem, ...] = ()


def repository_name(url: str) -> str:
    """The last path part of a repository's URL, without `.git`."""
    return url.rstrip("/").rsplit("/", 1)[-1].rsplit(":", 1)[-1].removesuffix(".git")


def without_credentials(url: str) -> str:
    """A URL with the user and password taken out: what may be shown, logged and recorded."""
    try:
        parts = urlsplit(url)
        if "@" not in parts.netloc:
            url = _TORN_PASSWORD.sub(r"\1", url)
            parts = urlsplit(url)
        if "@" not in parts.netloc:
            return url
        # `ssh://git@host` carries no secret; a password always goes.
        user = parts.username if parts.scheme == "ssh" and parts.username else ""
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=f"{user}@{host}" if user else host))
    except ValueError:
        return re.sub(r"//[^/@]*@", "//", url)


def text_without_credentials(text: str) -> str:
    """A tool's own words, with the user and password of every URL in them taken out."""
    return _URL_IN_TEXT.sub(lambda url: without_credentials(url[0]), text)


def one_line(text: str) -> str:
    """Somebody else's words as one line that may be shown: credentials gone, and what can't be shown as `\\x1b`."""
    line = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
    return _USER_ANYWHERE.sub(r"\1", text_without_credentials(line))


def parse_catalog(data: bytes, schemes: frozenset[str]) -> Catalog:
    """Read a catalog. A bad entry becomes a Problem; raises CatalogError when there is no list of entries at all.

    `schemes` are the URL schemes that repositories may have.
    """
    try:
        document = decode_json(data)
    except ValueError as error:
        raise CatalogError(f"The catalog can't be read: {error}.") from None
    if not isinstance(document, dict) or not isinstance(document.get("apps"), list):
        found = type(document.get("apps")).__name__ if isinstance(document, dict) else type(document).__name__
        raise CatalogError(f'The catalog can\'t be read: apps: expected {{"apps": [...]}} with a list, found {found}.')
    entries = document["apps"]
    if len(entries) > APPS_LIMIT:
        raise CatalogError(f"The catalog can't be read: apps: more than {APPS_LIMIT} entries.")
    apps: list[App] = []
    problems: list[Problem] = []
    for index, entry in enumerate(entries):
        parsed = _parse_entry(entry, f"apps[{index}]", schemes)
        if isinstance(parsed, App):
            apps.append(parsed)
        else:
            problems.append(parsed)
    kept, repeated = first_of_each_name(apps)
    return Catalog(kept, (*problems, *repeated))


def first_of_each_name(apps: list[App]) -> tuple[tuple[App, ...], tuple[Problem, ...]]:
    """Of kernels that would have the same name the first one wins; the others are problems."""
    first: dict[str, App] = {}
    kept: list[App] = []
    problems: list[Problem] = []
    for app in apps:
        if app.is_kernel and (winner := first.setdefault(app.kernel_name, app)) is not app:
            problems.append(
                Problem(
                    f"{app.id}.repository",
                    f"the kernel name {app.kernel_name} is already taken by {winner.id}, which comes first",
                )
            )
        else:
            kept.append(app)
    return tuple(kept), tuple(problems)


def _parse_entry(entry: Any, place: str, schemes: frozenset[str]) -> App | Problem:
    if not isinstance(entry, dict):
        return Problem(place, f"expected an object, found {type(entry).__name__}")
    for key in ("id", "label"):
        value = entry.get(key)
        if not isinstance(value, str) or not value.strip():
            return Problem(f"{place}.{key}", "missing, or not a text")
        if len(value) > TEXT_LIMIT or not value.isprintable():
            return Problem(f"{place}.{key}", "too long, or with characters that can't be shown")
    for key in ("endpoint", "repository", "branch", "commit"):
        value = entry.get(key)
        if value is not None and (not isinstance(value, str) or len(value) > TEXT_LIMIT):
            return Problem(f"{place}.{key}", f"expected a text, found {type(value).__name__}")
    for key in ("hidden", "skip"):
        if not isinstance(entry.get(key, False), bool):
            return Problem(f"{place}.{key}", "expected true or false")
    known = {"id", "label", "endpoint", "repository", "branch", "commit", "hidden", "skip"}
    app = App(
        id=entry["id"],
        label=entry["label"].strip(),
        endpoint=entry.get("endpoint") or "",
        repository=entry.get("repository") or "",
        branch=entry.get("branch") or None,
        commit=(entry.get("commit") or "").lower() or None,
        hidden=entry.get("hidden", False),
        skip=entry.get("skip", False),
        extra={key: value for key, value in entry.items() if key not in known},
    )
    fault = _check_kernel(app, place, schemes) if app.is_kernel else None
    return fault or app


def _check_kernel(app: App, place: str, schemes: frozenset[str]) -> Problem | None:
    """What would make git, or a path of ours, do something else than fetch this repository."""
    if fault := repository_fault(app.repository, schemes):
        return Problem(f"{place}.repository", fault)
    bad = app.branch and (app.branch.startswith("-") or _BAD_BRANCH.search(app.branch) or not app.branch.isprintable())
    if bad:
        return Problem(f"{place}.branch", f"{app.branch!r} is not a branch name")
    if app.commit and not _COMMIT.match(app.commit):
        return Problem(f"{place}.commit", f"{app.commit!r} is not a full commit (40 hexadecimal digits)")
    return None


def repository_fault(url: str, schemes: frozenset[str]) -> str | None:
    """Why a repository's URL is refused, or None."""
    shown = repr(without_credentials(url))
    if not url.isprintable() or " " in url or url.startswith("-"):
        return f"{shown} is not a repository URL"
    if _HELPER.match(url):
        return f"{shown} names a git remote helper, which could run any command"
    try:
        scheme, host, path = _parts(url)
    except ValueError:
        return f"{shown} is not a URL"
    if not scheme:
        return f"{shown} is not a repository URL (expected https://host/owner/name)"
    if scheme not in schemes:
        return f"{shown} has the scheme {scheme}, which c.Sepal.repository_schemes does not allow"
    if not path.strip("/") or host.startswith("-") or (not host and scheme != "file"):
        return f"{shown} is not a repository URL (expected {scheme}://host/owner/name)"
    name = repository_name(url)
    if not _NAME.match(name) or len(name) > 100:
        return f"{shown} ends in {name!r}, which can't be a kernel's name"
    return None


def _parts(url: str) -> tuple[str, str, str]:
    """(scheme, host, path) of a repository's URL or scp-like address, empty where there is none. Raises ValueError."""
    if "://" in url:
        parts = urlsplit(url)
        if parts.query or parts.fragment:
            raise ValueError("a repository's URL has no query")
        return parts.scheme.lower(), parts.hostname or "", parts.path
    match = _SCP.match(url)
    return ("ssh", match["host"], match["path"]) if match else ("", "", "")
