"""`conda create` with py-rattler and nothing around it: PREFIX CACHE CHANNEL SPEC..."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from rattler import Gateway, install, solve
from rattler.channel import Channel
from rattler.match_spec import MatchSpec
from rattler.virtual_package import VirtualPackage


async def create(prefix: Path, cache: Path, channel: str, specs: list[str]) -> None:
    """Solve, download and link."""
    records = await solve(
        sources=[Channel(channel)],
        specs=[MatchSpec(spec, strict=False) for spec in specs],
        gateway=Gateway(cache_dir=cache / "repodata"),
        virtual_packages=VirtualPackage.detect(),
    )
    await install(records, prefix, cache_dir=cache / "pkgs", execute_link_scripts=True)


if __name__ == "__main__":
    _, prefix, cache, channel, *specs = sys.argv
    asyncio.run(create(Path(prefix), Path(cache), channel, specs))
    os._exit(0)  # py-rattler can crash the interpreter while it shuts down
