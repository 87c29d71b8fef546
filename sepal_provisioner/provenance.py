"""What a prefix consists of, as a lock: written down by its build, or read from the records of conda and pip."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from .errors import EnvironmentFileError, StoreError
from .files import decode_json, read_bounded, write_atomic
from .lockfile import Lock, LockedPackage, LockedPip, conda_platform, direct_url
from .lockreader import LOCK_BYTES, parse_lock
from .mirrors import canonical

RECORD_BYTES = 100_000_000  # a conda record lists its package's files


def lock_path(prefix: Path) -> Path:
    """Where a build leaves the lock of what it made."""
    return prefix / ".sepal" / "lock.txt"


def write_lock(prefix: Path, mirrors: Mapping[str, str], checkout: Path, known: Lock | None = None) -> None:
    """Leave a prefix's lock in it. For the builder, before the marker. Raises StoreError."""
    write_atomic(lock_path(prefix), lock_of(prefix, mirrors, checkout, known).text())


def read_lock(prefix: Path, mirrors: Mapping[str, str], checkout: Path) -> Lock:
    """A prefix's lock: as its build wrote it down, else (an older prefix, a damaged file) as the prefix is now.

    Raises StoreError.
    """
    path = lock_path(prefix)
    try:
        return parse_lock(read_bounded(path, LOCK_BYTES).decode(), str(path), own=True)
    except (OSError, ValueError, EnvironmentFileError):
        return lock_of(prefix, mirrors, checkout)


def lock_of(prefix: Path, mirrors: Mapping[str, str], checkout: Path, known: Lock | None = None) -> Lock:
    """What the records in a prefix say, under the packages' public URLs. Raises StoreError.

    `checkout` is the repository, so that a project in it is named by its place there. `known` is the lock that the
    prefix was made from: micromamba records only the hash that it was given.
    """
    records = conda_records(prefix)
    hashes = {package.url: package for package in known.conda} if known else {}
    packages: list[LockedPackage] = []
    for record in _dependencies_first(records):
        url = canonical(str(record["url"]), mirrors)
        also = hashes.get(url, LockedPackage(url))
        packages.append(
            LockedPackage(url, str(record.get("md5") or also.md5), str(record.get("sha256") or also.sha256))
        )
    return Lock(conda_platform(), tuple(packages), tuple(_pip_packages(prefix, records, checkout)))


def conda_records(prefix: Path) -> dict[str, dict[str, Any]]:
    """conda's record of each package, by name. Raises StoreError: a lock that leaves one out would be wrong."""
    records: dict[str, dict[str, Any]] = {}
    for path in sorted((prefix / "conda-meta").glob("*.json")):
        try:
            record = decode_json(read_bounded(path, RECORD_BYTES))
            records[str(record["name"])] = {**record, "url": str(record["url"])}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{path} can't be read ({error}): the prefix is damaged. Build it again: jupyter sepal build --force."
            ) from None
    return records


def _dependencies_first(records: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Records in an order in which they can be linked, as micromamba takes them. Circles are cut somewhere."""
    ordered: dict[str, dict[str, Any]] = {}
    begun: set[str] = set()

    def visit(name: str) -> None:
        if name not in records or name in begun:
            return
        begun.add(name)
        for spec in sorted(records[name].get("depends") or ()):
            visit(re.split(r"[\s=<>!~\[]", spec, maxsplit=1)[0])
        ordered[name] = records[name]

    for name in sorted(records):
        visit(name)
    return list(ordered.values())


def _pip_packages(prefix: Path, records: Mapping[str, dict[str, Any]], checkout: Path) -> Iterator[LockedPip]:
    """Every installed distribution that no conda package brought, sorted by name."""
    owned = {file for record in records.values() for file in record.get("files") or () if file.endswith("/METADATA")}
    found: dict[str, LockedPip] = {}
    for folder in prefix.glob("lib/python3*/site-packages/*.dist-info"):
        if folder.parents[1].is_symlink() or f"{folder.relative_to(prefix).as_posix()}/METADATA" in owned:
            continue  # conda-forge's Python has a link `python3.1` beside its folder `python3.11`
        name, _, version = folder.name.removesuffix(".dist-info").partition("-")
        name = re.sub(r"[-_.]+", "-", name).lower()
        found[name] = LockedPip(_requirement(folder, name, version, checkout), name, version)
    yield from (found[name] for name in sorted(found))


def _requirement(folder: Path, name: str, version: str, checkout: Path) -> str:
    """The line that installs just this: from where pip says it came (PEP 610), else from the index."""
    pinned = f"{name}=={version}"
    try:
        document = json.loads(read_bounded(folder / "direct_url.json", 100_000))
        url = str(document["url"])
        if url.startswith("file:") and "vcs_info" not in document:
            place = _inside(Path(unquote(urlsplit(url).path)), checkout)
            editable = bool(document.get("dir_info", {}).get("editable"))
            return f"{'-e ' if editable else ''}{place}" if place else pinned
        part = f"#subdirectory={document['subdirectory']}" if document.get("subdirectory") else ""
        if vcs := document.get("vcs_info"):
            kind, commit = vcs["vcs"], vcs["commit_id"]
            return f"{name} @ {direct_url(f'{kind}+{url}')}@{commit}{part}"
        digest = (document.get("archive_info") or {}).get("hashes", {}).get("sha256", "")
        part = part or (f"#sha256={digest}" if digest else "")
        return f"{name} @ {direct_url(url)}{part}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return pinned


def _inside(path: Path, checkout: Path) -> str:
    """A project's place in the repository, `./package`, or "" when it lies elsewhere."""
    try:
        relative = path.resolve().relative_to(checkout.resolve()).as_posix()
    except (OSError, ValueError, RuntimeError):
        return ""
    return relative if relative == "." else f"./{relative}"
