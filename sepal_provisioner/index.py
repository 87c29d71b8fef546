"""The index: which kernels a store's catalogs name, at which commit, from which environment file.

`sync` writes it whole and renames it into place; listing and launching read nothing else to know what exists.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from .catalog import Problem
from .files import is_number, read_json, write_json

INDEX_LIMIT = 64_000_000  # bytes
VERSION = 1

_KERNEL_NAME = re.compile(r"venv-[a-z0-9][a-z0-9._-]*\Z")
_FINGERPRINT = re.compile(r"[0-9a-f]{16}\Z")


@dataclass(frozen=True)
class Kernel:
    """One shared kernel, as the last sync found it.

    `checkout` and `environment_file` are relative: to the store's `apps` folder and to the checkout. `resources` names
    a folder below the store's `resources` when the application ships a logo. `pinned` is the commit that the catalog
    names, if it names one. `problem` says why the newest version
    could not be taken; the fields are then those of the last good one.
    """

    name: str
    app: str
    label: str
    repository: str
    checkout: str
    commit: str
    environment_file: str
    fingerprint: str
    catalog: str = ""
    resources: str = ""
    problem: str = ""
    pinned: str = ""

    @property
    def display_name(self) -> str:
        """What JupyterLab's launcher shows."""
        return f"(venv) {self.label}"


@dataclass(frozen=True)
class CatalogState:
    """How reading one catalog went: `fetched` (seconds since the epoch) is the age of the copy that is used."""

    source: str
    fetched: float = 0
    apps: int = 0
    error: str = ""


@dataclass(frozen=True)
class Index:
    """A store's kernels in catalog order, how its catalogs were read, and what was wrong."""

    written: float = 0
    kernels: tuple[Kernel, ...] = ()
    catalogs: tuple[CatalogState, ...] = ()
    problems: tuple[Problem, ...] = ()
    skipped: tuple[str, ...] = ()  # kernel names of entries with `skip`: what is built of them stays

    def get(self, name: str) -> Kernel | None:
        """The kernel of this name, in any case."""
        wanted = name.lower()
        return next((kernel for kernel in self.kernels if kernel.name == wanted), None)


def write_index(path: Path, index: Index, *, durable: bool = True) -> None:
    """Replace the index. Raises StoreError."""
    write_json(path, {"version": VERSION, **asdict(index)}, durable=durable)


def read_index(path: Path) -> Index:
    """The index, or an empty one where there is none.

    Raises ValueError when there is one that cannot be read, so that nobody mistakes it for a store without kernels.
    """
    try:
        document = read_json(path, INDEX_LIMIT)
    except (FileNotFoundError, NotADirectoryError):
        return Index()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    if not isinstance(document, dict) or document.get("version") != VERSION:
        raise ValueError(f"{path}: it was written by another version of sepal_provisioner")
    try:
        return Index(
            written=_checked("float", document["written"]),
            kernels=tuple(_sound(_build(Kernel, document["kernels"]))),
            catalogs=tuple(_build(CatalogState, document["catalogs"])),
            problems=tuple(_build(Problem, document["problems"])),
            skipped=tuple(_checked("str", name) for name in document.get("skipped", ())),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def kernel_from_json(document: Any) -> Kernel:
    """One kernel, as `asdict` gives it. Raises ValueError and TypeError for anything else."""
    (kernel,) = _sound(_build(Kernel, [document]))
    return kernel


def _build(kind: Any, documents: Any) -> Iterable[Any]:
    """Values of a class from a list of objects; keys that it doesn't have are left out."""
    if not isinstance(documents, list) or not all(isinstance(document, dict) for document in documents):
        raise ValueError("expected a list of objects")
    types = {field.name: str(field.type) for field in fields(kind)}
    for document in documents:
        yield kind(**{name: _checked(types[name], value) for name, value in document.items() if name in types})


def _checked(kind: str, value: Any) -> Any:
    """A value of the type that a field is annotated with."""
    if not (isinstance(value, str) if kind == "str" else is_number(value)):
        raise ValueError(f"expected {kind}, found {type(value).__name__}")
    return value


def _sound(kernels: Iterable[Kernel]) -> Iterable[Kernel]:
    """Only what can safely become a path: an index is written by whoever may write the store."""
    for kernel in kernels:
        inner = (kernel.checkout, kernel.resources, kernel.environment_file)
        if not _KERNEL_NAME.match(kernel.name) or not _FINGERPRINT.match(kernel.fingerprint):
            raise ValueError(f"unexpected kernel {kernel.name!r}")
        empty = not kernel.checkout or not kernel.environment_file
        if empty or any("/" in part or part in (".", "..") or "\0" in part for part in inner):
            raise ValueError(f"unexpected path in kernel {kernel.name!r}")
        yield kernel
