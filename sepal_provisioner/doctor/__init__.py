"""What `jupyter sepal doctor` looks at: small functions that return findings and change nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..settings import Sepal
from ..store import Stores
from .finding import Finding, Level
from .frontend import check_front_ends, check_server
from .machine import check_disks, check_engines, check_git, check_variables
from .remote import check_catalogs, check_channels
from .stores import check_searched, check_store

__all__ = ["Finding", "Level", "examine"]


def examine(settings: Sepal, config: Mapping[str, Any], env: Mapping[str, str]) -> Iterator[Finding]:
    """Every finding, as it is made; those that ask the network come last.

    `config` is the server's whole configuration, `env` the environment that kernels would inherit.
    """
    stores = Stores.of(settings.store, settings.search_stores)
    yield from check_git()
    yield from check_engines(settings)
    yield from check_store(stores, settings)
    yield from check_searched(stores, settings)
    yield from check_disks(settings, env)
    yield from check_variables(env)
    yield from check_server(config)
    yield from check_front_ends(stores)
    yield from check_channels(settings)
    yield from check_catalogs(stores, settings)
