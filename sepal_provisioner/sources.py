"""Fetching catalogs: from a file, over http(s), or out of a git repository. The last good copy outlives any failure."""

from __future__ import annotations

import base64
import hashlib
import http.client
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .catalog import CATALOG_LIMIT, Catalog, parse_catalog, repository_fault, without_credentials
from .errors import CatalogError, RepositoryError, SepalError
from .files import human_size, read_bounded, read_json, resolve_inside, write_atomic, write_json
from .git import Git, Source
from .index import CatalogState
from .settings import Sepal
from .store import Store

_GIT = re.compile(r"git\+(?P<url>[^#]+?)(?:@(?P<branch>[^@:/#]+))?#(?P<path>[^#]+)\Z")


@dataclass(frozen=True)
class Fetched:
    """A catalog as it was read, and how that went. `catalog` is None when there is neither it nor a copy."""

    state: CatalogState
    catalog: Catalog | None


def fetch_catalog(source: str, store: Store, settings: Sepal) -> Fetched:
    """Read one catalog; when that fails, its last good copy. Never raises."""
    shown = without_credentials(source)
    copy = store.catalogs / f"{hashlib.sha256(source.encode()).hexdigest()[:16]}.json"
    error = ""
    try:
        data, etag = _read(source, copy, store, settings)
        catalog = parse_catalog(data, settings.schemes)
        now = time.time()
        write_atomic(copy, data, mode=0o600)  # its repository URLs may hold passwords
        write_json(copy.with_suffix(".meta"), {"source": shown, "fetched": now, "etag": etag})
        return Fetched(CatalogState(shown, now, len(catalog.apps)), catalog)
    except SepalError as failure:
        error = failure.message
    state = CatalogState(shown, error=error)
    try:
        catalog = parse_catalog(read_bounded(copy, CATALOG_LIMIT), settings.schemes)
        fetched = _meta(copy).get("fetched", 0)
        return Fetched(replace(state, fetched=float(fetched), apps=len(catalog.apps)), catalog)
    except (OSError, ValueError, TypeError, SepalError):
        return Fetched(state, None)


def _read(source: str, copy: Path, store: Store, settings: Sepal) -> tuple[bytes, str]:
    """The document, and its ETag if it came with one. Raises CatalogError."""
    if source.startswith(("http://", "https://")):
        return _download(source, copy, settings)
    if source.startswith("git+"):
        return _from_git(source, store, settings), ""
    try:
        return read_bounded(Path(source).expanduser(), CATALOG_LIMIT), ""
    except (OSError, ValueError) as error:
        raise CatalogError(f"The catalog {source} can't be read: {_words(error)}.") from None


def _download(url: str, copy: Path, settings: Sepal) -> tuple[bytes, str]:
    """GET with the last ETag. The time limit is for all of it: a server that drips bytes does not hold a sync up."""
    shown = without_credentials(url)
    headers = {"Accept": "application/json", "User-Agent": "sepal_provisioner", **_authorization(url)}
    etag = _meta(copy).get("etag")
    if isinstance(etag, str) and etag and copy.is_file():
        headers["If-None-Match"] = etag
    request = urllib.request.Request(shown, headers=headers)  # noqa: S310 - only http(s) comes here
    deadline = time.monotonic() + settings.catalog_timeout
    try:
        with urllib.request.urlopen(request, timeout=settings.catalog_timeout) as response:  # noqa: S310
            chunks: list[bytes] = []
            size = 0
            while chunk := response.read1(1 << 16):
                size += len(chunk)
                chunks.append(chunk)
                if size > CATALOG_LIMIT:
                    raise CatalogError(f"The catalog {shown} is larger than {human_size(CATALOG_LIMIT)}.")
                if time.monotonic() > deadline:
                    raise TimeoutError
            return b"".join(chunks), response.headers.get("ETag") or ""
    except urllib.error.HTTPError as error:
        if error.code == 304:
            return read_bounded(copy, CATALOG_LIMIT), str(etag)
        raise CatalogError(f"The catalog {shown} can't be fetched: HTTP {error.code} {error.reason}.") from None
    except TimeoutError:
        raise CatalogError(
            f"The catalog {shown} took longer than {settings.catalog_timeout} s (c.Sepal.catalog_timeout)."
        ) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise CatalogError(f"The catalog {shown} can't be fetched: {_words(error)}.") from None


def _authorization(url: str) -> dict[str, str]:
    """A user and password in the URL as a header, for that is how HTTP has them."""
    parts = urllib.parse.urlsplit(url)
    if parts.username is None:
        return {}
    pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
    return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


def _from_git(source: str, store: Store, settings: Sepal) -> bytes:
    match = _GIT.match(source)
    if not match:
        raise CatalogError(
            f"{without_credentials(source)} is not a git catalog (git+<repository URL>[@branch]#<path>)."
        )
    if fault := repository_fault(match["url"], settings.schemes):
        raise CatalogError(f"The catalog can't be read: {fault}.")
    folder = store.catalogs / f"git-{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    try:
        git = Git(folder, timeout=settings.git_timeout, schemes=settings.schemes)
        git.update(Source(match["url"], match["branch"]), store.aside)
        return read_bounded(resolve_inside(folder, match["path"]), CATALOG_LIMIT)
    except RepositoryError as error:
        raise CatalogError(f"The catalog can't be fetched: {error.message}", detail=error.detail) from None
    except (OSError, ValueError) as error:
        raise CatalogError(f"{match['path']} in {match['url']} can't be read: {_words(error)}.") from None


def _meta(copy: Path) -> dict[str, Any]:
    try:
        document = read_json(copy.with_suffix(".meta"), 100_000)
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _words(error: Exception) -> str:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    return str(reason) or type(error).__name__
