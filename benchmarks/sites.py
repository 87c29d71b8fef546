"""A site to measure on: the tests' own channel, repositories and store, which are real ones."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from channel import ensure_channel
from conftest import Site, commit, mirrors
from server import TOKEN, JupyterServer

from sepal_provisioner.settings import Sepal

__all__ = [
    "GEO_FILE",
    "NAME",
    "TOKEN",
    "JupyterServer",
    "Site",
    "commit",
    "ensure_channel",
    "geo_file",
    "geo_site",
    "site_of",
]

NAME = "venv-geo"
OPTIONS = {"refresh_interval": 0, "build_niceness": Sepal().build_niceness}  # the tests' builds don't stand back
# The usual geospatial stack. `pip` is listed because conda's Python does not always bring it.
GEO_FILE = """\
name: geo
channels:
  - conda-forge
dependencies:
  - python
  - pip
  - gdal
  - pyproj
  - rasterio
  - numpy
"""


def geo_site(root: Path, channel: Path) -> Site:
    """A synced site with one kernel, `venv-geo`, that is not built: an empty store and an empty package cache."""
    site = Site(root, mirrors(channel), options=dict(OPTIONS), compiled=False)
    site.add("geo", {"sepal_environment.yml": GEO_FILE})
    site.sync()
    return site


def geo_file(packages: Sequence[str], name: str) -> str:
    """An environment file with some packages and a variable of its own."""
    lines = "".join(f"  - {package}\n" for package in ("python", "pip", *packages))
    return f"channels:\n  - conda-forge\ndependencies:\n{lines}variables:\n  {name}: '1'\n"


def site_of(root: Path, channel: Path, files: Sequence[str]) -> Site:
    """A synced site with a kernel for each environment file, nothing built."""
    site = Site(root, mirrors(channel), options=dict(OPTIONS), compiled=False)
    for number, file in enumerate(files):
        site.add(f"app{number}", {"sepal_environment.yml": file})
    site.sync()
    return site
