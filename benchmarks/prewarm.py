"""Twelve environments that have most packages in common: `jupyter sepal build --all --jobs=4` against a loop.

The reference is what a script in a loop does: create each environment from its file, then install ipykernel with its
pip, with the engine's package cache and pip's shared by all. Both sides begin with empty caches.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from build import create_command, platform_environment, run
from measure import MEGABYTES, Measure, clocked, in_turns, say
from sites import Site, ensure_channel, geo_file, site_of

ENVIRONMENTS, JOBS = 12, 4
PAIRS = 2
TIME, DISK = 0.35, 0.4
EXTRAS = ("gdal", "pyproj", "rasterio", "numpy", "sepal-demo", "proj")


def measures(work: Path) -> Iterator[Measure]:
    """Seconds until all are ready, and bytes on the disk, files with several names counted once."""
    channel = ensure_channel()
    files = [geo_file(EXTRAS[: 1 + number % len(EXTRAS)], f"VERSION_{number}") for number in range(ENVIRONMENTS)]
    number = count()
    disk: dict[str, list[float]] = {"ours": [], "platform": []}

    def ours() -> float:
        folder = work / f"prewarm-{next(number)}"
        site = site_of(folder, channel, files)
        os.sync()
        seconds = clocked(lambda: _build_all(site))
        disk["ours"].append(_megabytes(site.store.root / "environments", site.store.packages))
        shutil.rmtree(folder)
        return seconds

    def platform() -> float:
        folder = work / f"prewarm-{next(number)}"
        folder.mkdir()
        os.sync()
        seconds = clocked(lambda: _one_after_another(folder, channel, files))
        disk["platform"].append(_megabytes(folder))
        shutil.rmtree(folder)
        return seconds

    say(f"prewarm: {ENVIRONMENTS} environments")
    taken = in_turns("prewarm", {"ours": ours, "platform": platform}, PAIRS, warm=0)
    yield Measure(f"build {ENVIRONMENTS} environments", tuple(taken["ours"]), tuple(taken["platform"]), TIME)
    yield Measure(f"disk of {ENVIRONMENTS} environments", tuple(disk["ours"]), tuple(disk["platform"]), DISK, MEGABYTES)


def _build_all(site: Site) -> None:
    command = [
        sys.executable,
        "-m",
        "jupyter",
        "sepal",
        "build",
        "--all",
        f"--jobs={JOBS}",
        f"--config={site.config()}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)


def _one_after_another(folder: Path, channel: Path, files: list[str]) -> None:
    cache = folder / "cache"
    env = platform_environment(cache)
    for number, file in enumerate(files):
        prefix = folder / f"venv-{number}"
        run(create_command(prefix, cache, channel, file), env, folder)
        run([prefix / "bin" / "pip", "install", "ipykernel"], env, folder)


def _megabytes(*folders: Path) -> float:
    """What du says: bytes on the disk of some folders together, in millions."""
    done = subprocess.run(["du", "-s", "-c", "--block-size=1", *folders], capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1].split()[0]) / 1e6
