"""The `argv` of a kernel spec on disk: finds the prefix, computes the environment, and becomes the kernel.

    python -m sepal_provisioner.launcher <kernel folder>/sepal.json -f <connection file>

It serves clients that never load our manager: `jupyter console`, nbclient, papermill, editors.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import process
from .builds import request_build
from .errors import SepalError, SettingsError
from .files import human_time, read_json, write_json
from .generation import Generation
from .launch import prepare, ready_generation
from .progress import Progress
from .settings import Sepal
from .store import Stores


def write_launch_file(path: Path, name: str, settings: Sepal) -> None:
    """Record what the launcher needs: the kernel's name, and the settings as they are now."""
    write_json(
        path,
        {"name": name, "settings": settings.to_json()},
        mode=0o600 if settings.channel_mirrors else 0o644,
    )


def launch(path: Path, arguments: list[str], base: Mapping[str, str]) -> None:
    """Become the kernel that `path` describes, built first if it has to be. Raises SepalError."""
    try:
        document = read_json(path)
        name, settings = document["name"], Sepal.from_json(document["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f"{path} can't be read ({error}). Install the kernel again: jupyter sepal install"
        ) from None
    stores = Stores.of(settings.store, settings.search_stores)
    generation = ready_generation(stores, name) or _build(stores, name, settings)
    ready = prepare(generation, name, base, settings)
    if ready.lock >= 0:
        os.set_inheritable(ready.lock, True)
    process.become([ready.python, "-m", "ipykernel_launcher", *arguments], ready.env)


def _build(stores: Stores, name: str, settings: Sepal) -> Generation:
    """Wait for the build, and say on standard error how far it is."""
    found = request_build(stores, name, settings, remember_failures=True)
    if isinstance(found, Generation):
        return found
    _say(f"The environment of {name} is being built; this happens once. Log: {found.log}")
    phase: Any = None

    def on_progress(progress: Progress) -> None:
        nonlocal phase
        if progress.phase is not phase:
            phase = progress.phase
            _say(f"{name}: {progress.sentence()}")

    generation = found.wait(on_progress)
    _say(f"{name} is ready after {human_time(generation.record().seconds)}.")
    return generation


def _say(text: str) -> None:
    sys.stderr.write(f"[sepal] {text}\n")
    sys.stderr.flush()


def main(arguments: list[str]) -> int:
    """The edge of this process: whatever goes wrong becomes a message and an exit code."""
    try:
        launch(Path(arguments[0]), arguments[1:], os.environ)
    except SepalError as error:
        _say(str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
