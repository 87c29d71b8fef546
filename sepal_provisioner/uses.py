"""When a prefix was last used, without a shared store being written.

Each launch reads a small file in the prefix: the file system notes the time of a read also for users who may write
nothing. Where it is mounted read-only, or without such times, a folder elsewhere can be named that launches write to.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from .generation import Generation
from .settings import Sepal


def note_use(generation: Generation, settings: Sepal) -> None:
    """Note that a kernel starts from this prefix now. Where that can't be written, nothing is: a launch goes on."""
    with contextlib.suppress(OSError):
        generation.used.read_bytes()
    if settings.usage_folder:
        with contextlib.suppress(OSError):
            (Path(settings.usage_folder) / _key(generation, os.geteuid())).touch(mode=0o644)


def last_use(generation: Generation, settings: Sepal) -> float:
    """When a kernel last started from it, in seconds since the epoch; 0 when nobody noted it.

    The latest of what every user noted in `c.Sepal.usage_folder`, and of the time at which the prefix's own file was
    last read.
    """
    times = []
    with contextlib.suppress(OSError):
        info = generation.used.stat()
        times += [info.st_atime] if info.st_atime > info.st_mtime else []
    if settings.usage_folder:
        for path in Path(settings.usage_folder).glob(_key(generation, "*")):
            with contextlib.suppress(OSError):
                times.append(path.lstat().st_mtime)
    return max(times, default=0)


def _key(generation: Generation, user: int | str) -> str:
    return f"{generation.path.parent.name}.{generation.path.name}.{user}"
