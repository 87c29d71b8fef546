"""A cold build, from the request to a kernel that is proven to start, against what the platform's script does.

The platform creates the environment from the file and then installs ipykernel with the prefix's own pip. Both sides use
the same engine, the same channel, and begin with no package in any cache.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path

from measure import Measure, clocked, in_turns
from sites import GEO_FILE, NAME, ensure_channel, geo_site

from sepal_provisioner.engines.micromamba import program
from sepal_provisioner.envfile import parse_conda
from sepal_provisioner.settings import Sepal

PAIRS = 5
BOUND = 0.8
PLAIN_RATTLER = Path(__file__).with_name("plain_rattler.py")


def measures(work: Path) -> Iterator[Measure]:
    """Against pip with the network as this machine has it, and, for information, with wheels on the disk."""
    channel = ensure_channel()
    local = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(channel / "wheels"), "PIP_EXTRA_INDEX_URL": ""}
    number = count()

    def in_new_folder(side: Callable[[Path, Path], float]) -> float:
        """Each build has a folder of its own, removed afterwards: nothing is found in any cache."""
        folder = work / f"build-{next(number)}"
        folder.mkdir()
        try:
            return side(folder, channel)
        finally:
            shutil.rmtree(folder)

    sides = {
        "ours": partial(in_new_folder, _ours),
        "pip": partial(in_new_folder, partial(_platform, pip={})),
        "local": partial(in_new_folder, partial(_platform, pip=local)),
    }
    taken = in_turns("build", sides, PAIRS, warm=1)
    ours = tuple(taken["ours"])
    yield Measure("cold build", ours, tuple(taken["pip"]), BOUND)
    yield Measure("cold build, pip without network", ours, tuple(taken["local"]))


def _ours(folder: Path, channel: Path) -> float:
    """The whole build process: solve, install, byte-compile, start a kernel and probe it, publish."""
    site = geo_site(folder, channel)
    os.sync()  # what the build before left to be written is not this one's
    return clocked(lambda: site.build(NAME))


def _platform(folder: Path, channel: Path, pip: Mapping[str, str]) -> float:
    """Create from the file's own specs, then `pip install ipykernel`; nothing is compiled beforehand or tried out."""
    prefix, cache = folder / "prefix", folder / "cache"
    create = create_command(prefix, cache, channel)
    install: Sequence[str | Path] = [prefix / "bin" / "pip", "install", "ipykernel"]
    env = {**platform_environment(cache), **pip}

    os.sync()
    seconds = clocked(lambda: run(create, env, folder)) + clocked(lambda: run(install, env, folder))
    run([prefix / "bin" / "python", "-c", "import ipykernel, rasterio"], env, folder)
    return seconds


def platform_environment(cache: Path) -> dict[str, str]:
    """Where the platform's tools keep what they download."""
    return {
        **os.environ,
        "MAMBA_ROOT_PREFIX": str(cache / "micromamba"),
        "CONDA_PKGS_DIRS": str(cache / "micromamba" / "pkgs"),
        "PIP_CACHE_DIR": str(cache / "pip"),
    }


def run(command: Sequence[str | Path], env: Mapping[str, str], folder: Path) -> None:
    """Run a command quietly; what it printed is in the error when it fails."""
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")


def create_command(prefix: Path, cache: Path, channel: Path, file: str = GEO_FILE) -> Sequence[str | Path]:
    """The same engine as ours takes, on the file's own specs."""
    forge = f"file://{channel / 'conda-forge'}"
    specs = parse_conda(file).dependencies
    if micromamba := program(Sepal()):
        options = ["--yes", "--no-rc", "--no-pyc", "--override-channels", "--channel", forge]
        return [micromamba, "create", *options, "--prefix", prefix, *specs]
    return [sys.executable, PLAIN_RATTLER, prefix, cache / "rattler", forge, *specs]
