"""Which HTTP status an error has; its code and words are the same everywhere."""

from __future__ import annotations

from typing import Any

from ..commands.command import error_document
from ..errors import (
    BuildError,
    BusyError,
    CatalogError,
    EnvironmentFileError,
    NoSpaceError,
    NotTrustedError,
    PolicyError,
    RepositoryError,
    SepalError,
    SettingsError,
    StoreError,
    StoreReadOnlyError,
    UnknownKernelError,
)

STATUSES: dict[type[SepalError], int] = {
    SepalError: 500,
    SettingsError: 503,  # nothing is wrong with the request: the server isn't set up for it
    CatalogError: 502,
    RepositoryError: 502,
    EnvironmentFileError: 422,
    UnknownKernelError: 404,
    StoreError: 503,
    StoreReadOnlyError: 403,
    NoSpaceError: 507,
    NotTrustedError: 403,
    BusyError: 409,
    PolicyError: 403,
    BuildError: 409,  # such as: another user's build, which this one may not cancel
}


def status_of(error: SepalError) -> int:
    """The status of an error: that of its class, or of the nearest one above it."""
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


def answer_of(error: SepalError) -> dict[str, Any]:
    """The body of the answer."""
    return {"error": error_document(error)}
