"""What is elsewhere: catalogs and channels. Nothing of it is kept."""

from __future__ import annotations

import time
from collections.abc import Iterator

from ..catalog import without_credentials
from ..files import human_time
from ..lockfile import conda_platform
from ..mirrors import public_url
from ..settings import Sepal
from ..sources import fetch_catalog, reachable
from ..store import Store, Stores
from ..temporary import TemporaryFolder
from .finding import Finding, Level

INDEXES = ("repodata.json.zst", "repodata.json")  # either will do
SECONDS = 15


def check_catalogs(stores: Stores, settings: Sepal) -> Iterator[Finding]:
    """Can each catalog be read now, and if not, how old is the copy that is used instead?"""
    if not settings.catalogs:
        yield Finding(
            "catalogs",
            Level.WARNING,
            "no catalog is configured",
            "there are no kernels but those of other stores",
            "Set c.Sepal.catalogs in jupyter_server_config.py.",
        )
    copies = _copies(stores)
    for source in settings.catalogs:
        shown = without_credentials(source)
        with TemporaryFolder("doctor") as folder:
            found = fetch_catalog(source, Store(folder), settings)
        if found.catalog is not None:
            faults = len(found.catalog.problems)
            said = f"{shown}: {found.state.apps} entries"
            yield Finding(
                "catalogs",
                Level.WARNING if faults else Level.OK,
                f"{said}, {faults} of them faulty" if faults else said,
                str(found.catalog.problems[0]) if faults else "",
                "Correct the catalog; `jupyter sepal status` shows every fault." if faults else "",
            )
        elif copy := copies.get(shown):
            age = human_time(max(0, time.time() - copy))
            yield Finding(
                "catalogs", Level.WARNING, found.state.error, f"a copy of {age} ago is used", "Correct or reach it."
            )
        else:
            yield Finding("catalogs", Level.PROBLEM, found.state.error, "and there is no copy", "Correct or reach it.")


def _copies(stores: Stores) -> dict[str, float]:
    """When each catalog was last read, as the store's index says."""
    try:
        return {state.source: state.fetched for state in stores.own.index().catalogs if state.fetched}
    except ValueError:
        return {}


def check_channels(settings: Sepal) -> Iterator[Finding]:
    """Does each mirror hold an index for this platform, and one for `noarch`?"""
    for channel, target in settings.channel_mirrors.items():
        if not target:
            yield Finding("channels", Level.INFO, f"{channel} is left out", "c.Sepal.channel_mirrors says so")
            continue
        base, shown = target.rstrip("/"), public_url(target)
        bad = False
        for folder in (conda_platform(), "noarch"):
            reasons = [reachable(f"{base}/{folder}/{name}", SECONDS) for name in INDEXES]
            if all(reasons):
                bad = True
                yield Finding(
                    "channels",
                    Level.PROBLEM,
                    f"{shown}/{folder} has no index that can be read: {reasons[-1]}",
                    f"no environment with the channel {channel} can be built",
                    "Correct c.Sepal.channel_mirrors, or index the mirror (an empty noarch needs an index, too).",
                )
        if not bad:
            yield Finding("channels", Level.OK, f"{channel}: {shown}")
