"""A site to measure on: the tests' own channel, repositories and store, which are real ones."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from channel import ensure_channel
from conftest import Site, commit, mirrors

__all__ = ["GEO_FILE", "NAME", "Site", "commit", "ensure_channel", "geo_site"]

NAME = "venv-geo"
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
    site = Site(root, mirrors(channel), options={"refresh_interval": 0})
    site.add("geo", {"sepal_environment.yml": GEO_FILE})
    site.sync()
    return site
