"""The catalog's entry of a repository: whether there is one, and whether the platform takes it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from ..catalog import parse_catalog, repository_fault, without_credentials
from ..errors import CatalogError
from ..files import decode_json
from ..sources import read_catalog
from ..store import Store
from ..temporary import TemporaryFolder
from .finding import Finding, finding
from .subject import Subject

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")


def check(subject: Subject) -> Iterator[Finding]:
    """The repository's name, and every entry of the configured catalogs that names the repository."""
    if not _NAME.match(subject.name):
        yield finding("repository-name", f"{subject.name!r} can't be a kernel's name.")
        return
    read = found = 0
    for source in subject.settings.catalogs:
        shown = without_credentials(source)
        try:
            with TemporaryFolder("check") as folder:
                data = read_catalog(source, Store(folder), subject.settings)
            catalog = parse_catalog(data, subject.settings.schemes)
        except CatalogError as error:
            yield finding("catalog-unreadable", error.message)
            continue
        read += 1
        for index, entry in enumerate(decode_json(data)["apps"]):
            if isinstance(entry, dict) and _names(entry, subject):
                found += 1
                places = (f"apps[{index}]", f"{entry.get('id')}.repository")
                problems = [p for p in catalog.problems if p.place == places[0] or p.place.startswith(f"{places[0]}.")]
                problems += [p for p in catalog.problems if p.place == places[1]]
                yield from (finding("catalog-entry", f"{shown}: {problem}.") for problem in problems)
                yield from _state(entry, f"{shown}: {places[0]}") if not problems else ()
    if read and not found:
        entry_text = json.dumps(_new_entry(subject), ensure_ascii=False, indent=2)
        yield finding("not-in-catalog", "No entry of the catalog names this repository.", detail=entry_text)


def _state(entry: dict[str, Any], where: str) -> Iterator[Finding]:
    """What a sound entry says that an author may not expect."""
    if entry.get("endpoint") != "jupyter":
        said = entry.get("endpoint")
        yield finding(
            "catalog-not-a-kernel", f"{where}.endpoint is {said!r}: the repository is not listed as a kernel."
        )
    if entry.get("skip"):
        yield finding("catalog-skipped", f"{where}.skip is true: the kernel is neither listed nor built for now.")


def _new_entry(subject: Subject) -> dict[str, Any]:
    remote = without_credentials(subject.remote)
    known = remote and not repository_fault(remote, subject.settings.schemes | {"https"})
    entry = {
        "id": subject.name,
        "label": subject.name.replace("_", " ").replace("-", " "),
        "endpoint": "jupyter",
        "repository": remote if known else f"https://github.com/OWNER/{subject.name}",
    }
    return {**entry, "branch": subject.branch, "tags": []} if subject.branch else {**entry, "tags": []}


def _names(entry: dict[str, Any], subject: Subject) -> bool:
    url = entry.get("repository")
    candidates: Sequence[str] = (subject.remote, f"file://{subject.root}")
    return isinstance(url, str) and bool(url) and _plain(url) in {_plain(one) for one in candidates if one}


def _plain(url: str) -> str:
    """`github.com/owner/name` of each way to write it."""
    text = re.sub(r"\A[\w+.-]+://", "", without_credentials(url).strip())
    text = re.sub(r"\A[\w.-]+@", "", text)
    text = re.sub(r"\A([\w.-]+):(?!\d+/)", r"\1/", text)
    return text.rstrip("/").removesuffix(".git").lower()
