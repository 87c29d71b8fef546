"""Fetching catalogs: from a file, over http(s), or out of a git repository. The last good copy outlives any failure."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import hashlib
import http.client
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from .catalog import CATALOG_LIMIT, Catalog, parse_catalog, repository_fault, without_credentials
from .errors import CatalogError, RepositoryError, SepalError
from .files import human_size, is_number, read_bounded, read_json, resolve_inside, write_atomic, write_json
from .git import Git, Source
from .index import CatalogState
from .settings import Sepal
from .store import Store

# The URL's own `@` stands before its path, a branch's behind it: git+ssh://git@host/owner/name@feature/x#apps.json
_GIT = re.compile(
    r"git\+(?P<url>(?:[\w+.-]+://[^/#]*/|[^:/#]+:)[^#]*?)(?:@(?P<branch>[^@:#]+))?#(?P<path>[^#]+)\Z",
)
_ETAG = re.compile(r"[\x21-\x7e]{1,500}\Z")  # one that no header could carry would fail every later request
T = TypeVar("T")


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
        fetched = _meta(copy).get("fetched")
        age = fetched if is_number(fetched) else 0
        return Fetched(replace(state, fetched=age, apps=len(catalog.apps)), catalog)
    except (OSError, ValueError, SepalError):
        with contextlib.suppress(OSError):  # or its ETag would have the server say "unchanged" for ever
            copy.with_suffix(".meta").unlink()
        return Fetched(state, None)


def read_catalog(source: str, store: Store, settings: Sepal) -> bytes:
    """A catalog's document as it is now, with nothing remembered: for whoever checks an entry. Raises CatalogError."""
    return _read(source, store.catalogs / "now.json", store, settings)[0]


def _read(source: str, copy: Path, store: Store, settings: Sepal) -> tuple[bytes, str]:
    """The document, and its ETag if it came with one. Raises CatalogError."""
    if source.startswith(("http://", "https://")):
        return _download(source, copy, settings)
    if source.startswith("git+"):
        return _from_git(source, store, settings), ""
    try:
        return read_bounded(Path(source).expanduser(), CATALOG_LIMIT), ""
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: `~somebody` who isn't known
        raise CatalogError(f"The catalog {source} can't be read: {_words(error)}.") from None


def _download(url: str, copy: Path, settings: Sepal) -> tuple[bytes, str]:
    """GET with the last ETag. The time limit is for all of it: a server that drips bytes does not hold a sync up."""
    shown = without_credentials(url)
    seconds = settings.catalog_timeout
    etag = _meta(copy).get("etag") if copy.is_file() else ""
    etag = etag if isinstance(etag, str) and _ETAG.match(etag) else ""
    late = CatalogError(f"The catalog {shown} took longer than {seconds} s (c.Sepal.catalog_timeout).")
    try:
        return _in_time(lambda: _get(url, etag, seconds), seconds) or (read_bounded(copy, CATALOG_LIMIT), etag)
    except urllib.error.HTTPError as error:
        raise CatalogError(f"The catalog {shown} can't be fetched: HTTP {error.code} {error.reason}.") from None
    except (TimeoutError, concurrent.futures.TimeoutError):
        raise late from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(getattr(error, "reason", None), TimeoutError):
            raise late from None
        raise CatalogError(f"The catalog {shown} can't be fetched: {_words(error)}.") from None


def _get(url: str, etag: str, seconds: float) -> tuple[bytes, str] | None:
    """(the body, its ETag), or None when the server says that it is the one we have."""
    headers = {"Accept": "application/json", "User-Agent": "sepal_provisioner"}
    if etag:
        headers["If-None-Match"] = etag
    request = urllib.request.Request(without_credentials(url), headers=headers)  # noqa: S310 - only http(s) comes here
    for name, value in _authorization(url).items():
        request.add_unredirected_header(name, value)  # for this server, not for where it may send us
    deadline = time.monotonic() + seconds
    try:
        with urllib.request.urlopen(request, timeout=seconds) as response:  # noqa: S310
            chunks: list[bytes] = []
            size = 0
            while chunk := response.read1(1 << 16):
                size += len(chunk)
                chunks.append(chunk)
                if size > CATALOG_LIMIT:
                    raise ValueError(f"it is larger than {human_size(CATALOG_LIMIT)}")
                if time.monotonic() > deadline:
                    raise TimeoutError
            return b"".join(chunks), response.headers.get("ETag") or ""
    except urllib.error.HTTPError as error:
        if error.code == 304 and etag:
            return None
        raise


def reachable(url: str, seconds: float) -> str:
    """Why a `file://` or http(s) URL can't be read, or nothing. For `jupyter sepal doctor`."""
    parts = urllib.parse.urlsplit(url)
    try:
        if parts.scheme == "file":
            with Path(urllib.parse.unquote(parts.path)).open("rb") as stream:
                return "" if stream.read(1) else "it is empty"
        if parts.scheme not in ("http", "https"):
            return f"{parts.scheme or 'no scheme'} is neither file nor http(s)"
        request = urllib.request.Request(without_credentials(url), headers={"User-Agent": "sepal_provisioner"})  # noqa: S310
        for name, value in _authorization(url).items():
            request.add_unredirected_header(name, value)
        return _in_time(lambda: _first_byte(request, seconds), seconds)
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code} {error.reason}"
    except (TimeoutError, concurrent.futures.TimeoutError):
        return f"no answer within {seconds:.0f} s"
    except (OSError, ValueError, http.client.HTTPException) as error:
        return _words(error)


def _first_byte(request: urllib.request.Request, seconds: float) -> str:
    with urllib.request.urlopen(request, timeout=seconds) as response:  # noqa: S310 - only http(s) comes here
        return "" if response.read(1) else "it is empty"


def _in_time(work: Callable[[], T], seconds: float) -> T:
    """What `work` gives. Raises what it raises, and TimeoutError when it takes longer.

    It runs in a thread that is then left to itself: nothing else ends a name resolution or headers that drip in.
    """
    future: concurrent.futures.Future[T] = concurrent.futures.Future()

    def call() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised by whoever waits
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return future.result(seconds)


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
        shown = without_credentials(match["url"])
        raise CatalogError(f"{match['path']} in {shown} can't be read: {_words(error)}.") from None


def _meta(copy: Path) -> dict[str, Any]:
    try:
        document = read_json(copy.with_suffix(".meta"), 100_000)
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _words(error: Exception) -> str:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    return str(reason) or type(error).__name__
